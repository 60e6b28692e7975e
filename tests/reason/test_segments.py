import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from temper.errors import DataError, ModelError
from temper.reason.segments import first_tokens, segments_of, spans, token_borders
from tests.data.tokenizers import make_tokenizer
from tests.reason.builders import CHAT, DOCUMENTS, QUESTIONS, TOKENIZER, TRIGGER, request, saying


def cut(rows, tokenizer=TOKENIZER, source=None, **settings):
    asked = request(rows, tokenizer, source=source or {})
    return segments_of(saying("x", **settings), rows, tokenizer, asked.source, "data.trace")


@pytest.mark.parametrize(
    ("tokens", "count", "size", "overlap", "expected"),
    [
        (10, 1, 512, 0, [(0, 10)]),
        (10, 2, 4, 0, [(0, 4), (4, 8)]),
        (10, 9, 4, 0, [(0, 4), (4, 8), (8, 10)]),
        (10, 3, 4, 1, [(0, 4), (3, 7), (6, 10)]),
        (5, 3, 4, 1, [(0, 4), (3, 5)]),
        (4, 3, 4, 3, [(0, 4)]),
        (6, 9, 4, 3, [(0, 4), (1, 5), (2, 6)]),
    ],
)
def test_spans_start_where_the_one_before_ends_less_the_overlap_and_none_holds_nothing_new(
    tokens, count, size, overlap, expected
):
    assert spans(tokens, count, size, overlap) == expected


@pytest.mark.parametrize("text", ["", "  Ada was  born\nin London ", "né 😀😀 ñ", DOCUMENTS[0]["text"]])
def test_borders_stand_at_the_ends_of_tokens_and_cut_no_character(text):
    borders = token_borders(TOKENIZER, text)
    assert len(borders) == len(TOKENIZER(text, add_special_tokens=False)["input_ids"]) + 1
    assert borders == sorted(borders) and borders[0] == 0 and borders[-1] == len(text)


def test_the_first_tokens_of_a_text_are_a_beginning_of_it_of_at_most_so_many_tokens():
    text = "Ada né 😀 ñ in London"
    whole = len(TOKENIZER(text, add_special_tokens=False)["input_ids"])
    for limit in range(1, whole + 3):
        kept, count = first_tokens(TOKENIZER, text, limit)
        assert count == whole and text.startswith(kept)
        assert len(TOKENIZER(kept, add_special_tokens=False)["input_ids"]) <= limit
    assert first_tokens(TOKENIZER, text, whole)[0] == text and first_tokens(TOKENIZER, text, whole - 1)[0] != text


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_segments_without_overlap_put_together_are_the_document(size):
    row = {"id": "d", "text": "Ada née 😀 was born in  London"}
    segments, _ = cut([row], segments_per_doc=100, segment_tokens=size)
    borders = token_borders(TOKENIZER, row["text"])
    assert "".join("".join(segment.text for segment in segments).split()) == "".join(row["text"].split())
    assert all(segment.text == row["text"][borders[segment.start] : borders[segment.end]] for segment in segments)


def test_segments_have_the_tokens_asked_for_and_share_the_overlap():
    row = {"id": "d", "text": " ".join(["question answer who what where"] * 6)}
    segments, _ = cut([row], segments_per_doc=3, segment_tokens=8, overlap=3)
    assert [(segment.start, segment.end) for segment in segments] == [(0, 8), (5, 13), (10, 18)]
    ids = TOKENIZER(row["text"], add_special_tokens=False)["input_ids"]
    for segment in segments:
        assert TOKENIZER(segment.text, add_special_tokens=False)["input_ids"] == ids[segment.start : segment.end]
    assert [segment.id for segment in segments] == ["d#0", "d#1", "d#2"]


def test_a_short_document_is_one_segment_however_many_are_asked_for():
    segments, _ = cut(DOCUMENTS, segments_per_doc=4)
    assert [(segment.document, segment.number, segment.text) for segment in segments] == [
        (row["id"], 0, row["text"]) for row in DOCUMENTS
    ]


def test_the_trigger_stands_after_the_segment_or_before_it():
    text = DOCUMENTS[2]["text"]
    assert cut(DOCUMENTS[2:])[0][0].prompt == f"{text}\n{TRIGGER}\n<think>"
    assert cut(DOCUMENTS[2:], trigger_position="before")[0][0].prompt == f"{TRIGGER}\n{text}\n<think>"
    assert cut(DOCUMENTS[2:], trigger="")[0][0].prompt == f"{text}\n<think>"


def test_a_question_is_rendered_by_the_chat_template_with_the_trigger_in_it():
    segments, _ = cut(QUESTIONS, CHAT)
    assert segments[0].prompt == f"<s><|user|>Where was Ada born?\n{TRIGGER}<|assistant|><think>"
    assert segments[1].prompt == f"<s><|user|>Who writes {{prompt}} books?\n{TRIGGER}<|assistant|><think>"
    assert (segments[0].start, segments[0].end) == (0, len(CHAT("Where was Ada born?", add_special_tokens=False)["input_ids"]))


def test_a_question_without_a_chat_template_is_written_by_the_plain_format():
    segments, _ = cut(QUESTIONS, source={"plain_format": "Q: {prompt}\nA: "}, trigger="Why?")
    assert segments[1].prompt == "Q: Who writes {prompt} books?\nWhy?\nA: <think>"


def test_the_last_question_of_a_conversation_gets_the_trigger():
    turns = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Ada."},
        {"role": "user", "content": "Where?"},
    ]
    for messages in (turns, [*turns, {"role": "assistant", "content": "London."}]):
        segments, _ = cut([{"id": "m", "messages": messages}], CHAT, trigger="Why?")
        assert segments[0].prompt == "<s><|user|>Who?<|assistant|>Ada.</s><|user|>Where?\nWhy?<|assistant|><think>"


def test_a_template_that_opens_the_thought_itself_is_not_doubled():
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
    assert tokenizer.chat_template.count("<think>") == 1
    segment = cut(QUESTIONS[:1], tokenizer, trigger="")[0][0]
    assert segment.prompt == "<s><|user|>Where was Ada born?<|assistant|><think>\n" and segment.opening == "<think>\n"
    other = cut(QUESTIONS[:1], tokenizer, trigger="", open_tag="<reason>")[0][0]
    assert other.prompt.endswith("<think>\n<reason>")


def test_rows_of_blanks_are_dropped_by_name():
    segments, dropped = cut([{"id": "e", "text": " \n"}, DOCUMENTS[0], {"id": "f", "prompt": " ", "response": ""}], CHAT)
    assert [segment.document for segment in segments] == ["a"]
    assert [(drop.id, drop.reason) for drop in dropped] == [("e", "holds no text"), ("f", "holds no text")]


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        ({"id": "x", "body": "A"}, {}, "has no column 'text', 'prompt' or 'messages'. Its columns: body"),
        ({"id": "x", "text": 5}, {}, "column 'text' holds 5 (int), expected text"),
        ({"id": "x", "text": ""}, {}, "none of its 1 rows holds text"),
        ({"id": "x", "prompt": "Who?"}, {"segments_per_doc": 2}, "is a question, which is not cut into segments"),
        ({"id": "x", "messages": []}, {}, "holds no question of a user"),
        ({"id": "x", "messages": [{"role": "user"}]}, {}, "must be a list of turns with role and content"),
        ({"id": "x", "messages": [{"role": "system", "content": "Be brief."}]}, {}, "holds no question of a user"),
    ],
)
def test_rows_that_cannot_be_asked_about_are_errors_that_name_them(row, settings, said):
    with pytest.raises(DataError) as error:
        cut([row], CHAT, **settings)
    assert said in str(error.value) and ("'x'" in str(error.value) or "none of its" in said)


def test_a_conversation_needs_a_chat_template():
    with pytest.raises(DataError, match="'x'.*need a tokenizer with a chat template"):
        cut([{"id": "x", "messages": [{"role": "user", "content": "Who?"}]}])


def test_a_tokenizer_that_does_not_know_where_its_tokens_lie_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="fast tokenizer"):
        token_borders(Slow(), "text")


def test_a_tag_of_unknown_words_is_refused_and_one_of_several_words_is_not():
    raw = Tokenizer(models.WordLevel({"?": 0, "think": 1, "<": 2, ">": 3, "Ada": 4, "/": 5}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Punctuation()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?")
    rows = [{"id": "d", "text": "Ada"}]
    assert saying("Ada", trigger="").collect(request(rows, tokenizer)).traces[0].text == "Ada"
    with pytest.raises(ModelError, match="close_tag = '\\[end\\]'.*open_tag and close_tag"):
        saying("Ada", close_tag="[end]").collect(request(rows, tokenizer))
