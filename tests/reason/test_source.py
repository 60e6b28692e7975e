import pytest

from temper.data.tokenise import encode
from temper.errors import DataError, RecipeError
from temper.recipe import from_dict
from tests.data.tokenizers import make_tokenizer
from tests.reason.builders import CHAT, DOCUMENTS, QUESTIONS, TOKENIZER, TRIGGER, request, saying


def made(rows=DOCUMENTS, tokenizer=TOKENIZER, text="Ada was born in London.</think>", source=None, **settings):
    return saying(*([text] if isinstance(text, str) else text), **settings).make(request(rows, tokenizer, source=source or {}))


def encoded(result, tokenizer=TOKENIZER):
    return encode(result.rows, tokenizer, result.source, max_length=512, overflow="error", where="data.trace").items


def read(item, tokenizer=TOKENIZER):
    return tokenizer.decode(item.input_ids)


def scored(item, tokenizer=TOKENIZER):
    return tokenizer.decode([label for label in item.labels if label != -100])


def test_a_row_reads_trigger_opening_tag_and_trace_and_scores_the_trace_alone():
    items = encoded(made())
    assert [item.id for item in items] == ["a#0", "b#0", "c#0"] and [item.document for item in items] == ["a", "b", "c"]
    for item in items:
        assert read(item) == f"<s>{TRIGGER}\n<think>Ada was born in London.</think>"
        assert scored(item) == "Ada was born in London.</think>"


@pytest.mark.parametrize("rows", [DOCUMENTS, QUESTIONS, [{"id": "m", "messages": [{"role": "user", "content": "Who writes?"}]}]])
@pytest.mark.parametrize("trigger", [TRIGGER, ""])
def test_every_row_starts_with_trigger_and_tag_and_holds_no_word_of_its_prompt(rows, trigger):
    for item in encoded(made(rows, CHAT, " so it goes</think>", trigger=trigger), CHAT):
        assert read(item, CHAT) == "<s>" + (f"{trigger}\n" if trigger else "") + "<think> so it goes</think>"


def test_a_document_that_is_kept_is_read_and_not_scored():
    item = encoded(made(keep_context="keep_unscored"))[0]
    assert read(item) == f"<s>{DOCUMENTS[0]['text']}\n{TRIGGER}\n<think>Ada was born in London.</think>"
    assert scored(item) == "Ada was born in London.</think>"


def test_a_question_that_is_kept_is_rendered_by_the_chat_template_as_the_trace_was_asked_for():
    result = made(QUESTIONS, CHAT, keep_context="keep_unscored")
    for item, question in zip(encoded(result, CHAT), QUESTIONS, strict=True):
        prompt = f"<s><|user|>{question['prompt']}\n{TRIGGER}<|assistant|><think>"
        assert item.prompt == prompt and read(item, CHAT) == prompt + "Ada was born in London.</think>"
        assert scored(item, CHAT) == "Ada was born in London.</think>"


def test_a_conversation_that_is_kept_ends_with_the_trace():
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}, {"role": "user", "content": "Where?"}]
    result = made([{"id": "m", "messages": turns}], CHAT, "In London.</think>", keep_context="keep_unscored", trigger="")
    (item,) = encoded(result, CHAT)
    assert read(item, CHAT) == "<s><|user|>Who?<|assistant|>Ada.</s><|user|>Where?<|assistant|><think>In London.</think>"
    assert scored(item, CHAT) == "In London.</think>"


@pytest.mark.parametrize("keep", ["drop", "keep_unscored"])
def test_a_thought_that_the_template_opens_is_opened_once_in_a_row(keep):
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
    item = encoded(made(QUESTIONS[:1], tokenizer, "In London.</think>", keep_context=keep, trigger=""), tokenizer)[0]
    before = "<s>" if keep == "drop" else "<s><|user|>Where was Ada born?<|assistant|>"
    assert read(item, tokenizer) == before + "<think>\nIn London.</think>"


def test_documents_and_questions_cannot_both_be_kept_in_one_source():
    rows = [*DOCUMENTS, *QUESTIONS]
    assert len(made(rows, CHAT).rows) == 5
    with pytest.raises(DataError, match="two sources"):
        made(rows, CHAT, keep_context="keep_unscored")


def test_a_row_keeps_the_first_tokens_of_a_long_trace_and_has_no_end_token():
    text = "question answer who what where when how many novels"
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    for limit in (3, len(tokens) - 1):
        item = encoded(made(text=text, max_trace_tokens=limit, trigger=""))[0]
        assert [label for label in item.labels if label != -100] == tokens[:limit]


def test_an_end_token_follows_a_trace_that_ended_and_neither_one_that_closed_nor_one_that_was_cut():
    ends = {
        text: encoded(made(text=text, **settings))[0].input_ids[-1] == 2
        for text, settings in (
            ("Ada. So London.", {}),
            ("Ada.</think> London.", {"until": "end"}),
            ("Ada.</think> London", {}),
            ("Ada was born in London", {"max_trace_tokens": 2}),
        )
    }
    assert list(ends.values()) == [True, True, False, False]


def test_what_follows_the_closing_tag_is_read_only_where_the_trace_goes_on_to_the_end():
    text = "<think>Ada.</think> London"
    assert scored(encoded(made(text=text))[0]) == "Ada.</think>"
    assert scored(encoded(made(text=text, until="end"))[0]) == "Ada.</think> London</s>"


def test_a_short_trace_is_left_out_with_its_document_and_the_others_stay_paired():
    texts = ["Ada was born in London.</think>", " who</think>", "The author writes about travel.</think>"]
    result = made(text=texts, min_trace_tokens=2)
    assert [(row["document"], row["response"]) for row in result.rows] == [("a", texts[0]), ("c", texts[2])]
    assert [(drop.id, drop.reason) for drop in result.dropped] == [
        ("b", "its trace has 1 tokens, fewer than min_trace_tokens = 2")
    ]
    assert result.facts["too_short"] == 1 and result.facts["traces"] == 3 and result.facts["documents_dropped"] == 1


def test_a_document_stays_while_one_of_its_segments_has_a_trace():
    rows = [{"id": "d", "text": "question answer who what where"}]
    result = made(rows, text=["", "Ada was born.</think>"], segments_per_doc=2, segment_tokens=3)
    assert [row["id"] for row in result.rows] == ["d#1"] and result.dropped == [] and result.facts["too_short"] == 1


@pytest.mark.parametrize("text", ["", "  ", "</think>", " \n</think> London"])
def test_an_empty_thought_is_no_trace(text):
    with pytest.raises(DataError, match="none of the 3 traces .* has 1 tokens or more"):
        made(text=text, until="end")


def test_other_delimiters_open_and_close_a_trace():
    item = encoded(made(text="Ada.<|user|> London", open_tag="[r]", close_tag="<|user|>", trigger="Go:"))[0]
    assert read(item) == "<s>Go:\n[r]Ada.<|user|>"


def test_weight_and_topic_of_the_source_and_other_columns_of_a_row_are_kept():
    result = made(QUESTIONS, CHAT, source={"weight": 2.5, "topic": "towns"})
    assert (result.source.weight, result.source.topic) == (2.5, "towns")
    assert result.rows[0]["town"] == "London" and result.rows[0]["response"].startswith("Ada")
    assert {item.topic for item in encoded(result, CHAT)} == {"towns"}


def test_columns_with_names_of_their_own_are_read_and_come_out_under_the_usual_ones():
    rows = [{"id": "x", "question": "Who?", "reply": "Ada", "text": "not this"}]
    result = made(rows, CHAT, source={"prompt": "question", "response": "reply"}, keep_context="keep_unscored", trigger="")
    assert read(encoded(result, CHAT)[0], CHAT).startswith("<s><|user|>Who?<|assistant|><think>Ada was")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overlap": 4, "segment_tokens": 4}, "overlap = 4: must be below segment_tokens = 4"),
        ({"max_new_tokens": 4, "min_trace_tokens": 9}, "max_new_tokens = 4: must be at least min_trace_tokens = 9"),
        ({"max_trace_tokens": 4, "min_trace_tokens": 9}, "max_trace_tokens = 4: must be at least min_trace_tokens = 9"),
        ({"segments_per_doc": 0}, "segments_per_doc"),
        ({"open_tag": ""}, "open_tag"),
        ({"trigger_position": "middle"}, "trigger_position"),
        ({"max_trace_token": 5}, "did you mean 'max_trace_tokens'?"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_the_recipe(settings, said):
    document = {"model": {"path": "m"}, "data": {"trace": {"path": "f.jsonl", "provider": {"traces": settings}}}}
    with pytest.raises(RecipeError) as error:
        from_dict(document)
    assert said in str(error.value)


def test_limits_that_leave_one_length_are_accepted():
    settings = {"max_new_tokens": 9, "max_trace_tokens": 9, "min_trace_tokens": 9}
    document = {"model": {"path": "m"}, "data": {"trace": {"path": "f.jsonl", "provider": {"traces": settings}}}}
    assert from_dict(document).data["trace"][0].provider.min_trace_tokens == 9


def test_a_recipe_names_a_provider_in_any_form():
    for provider, name in (
        ("traces", "traces"),
        ({"trace_column": "cot"}, "trace_column"),
        ({"trace_callable": "f"}, "trace_callable"),
    ):
        found = from_dict({"model": {"path": "m"}, "data": {"trace": {"path": "f.jsonl", "provider": provider}}})
        assert found.data["trace"][0].provider.name == name
