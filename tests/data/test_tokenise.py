import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data import check_overlap, encode, join, longest, prompt_text
from temper.data.padding import collate
from temper.errors import DataError
from temper.recipe import DataSource
from tests.data.tokenizers import make_tokenizer

SOURCE = DataSource(path="made-up")
PLAIN = make_tokenizer()
CHAT = make_tokenizer(chat=True)
LOOSE = make_tokenizer(pad=False, bos=False, eos=False)
CLOSING = make_tokenizer(adds_eos=True)
TOKENIZERS = {"plain": PLAIN, "chat": CHAT, "no specials": LOOSE, "adds its own end": CLOSING}


def encoded(rows, tokenizer=PLAIN, source=SOURCE, max_length=200, overflow="error"):
    rows = [{"id": str(n), **row} for n, row in enumerate(rows)]
    return encode(rows, tokenizer, source, max_length=max_length, overflow=overflow, where="data.forget: f.jsonl")


def scored(item):
    return [label for label in item.labels if label != -100]


def test_only_the_response_and_one_end_are_scored():
    (item,) = encoded([{"prompt": "Where was Ada born?", "response": " In London."}]).items
    assert PLAIN.decode(scored(item)) == " In London.</s>"
    assert item.labels[0] == -100 and item.input_ids[0] == PLAIN.bos_token_id


def test_the_prefill_is_given_and_not_scored():
    (item,) = encoded([{"prompt": "Where?", "prefill": " <think></think>", "response": " London"}], CHAT).items
    assert item.prompt == "<s><|user|>Where?<|assistant|> <think></think>"
    assert CHAT.decode(scored(item)) == " London</s>"


def test_a_token_that_spans_the_border_belongs_to_the_response():
    prompt, response = "Ada was born in Lon", "don."
    alone = PLAIN(prompt).input_ids
    (item,) = encoded([{"prompt": prompt, "response": response}]).items
    assert list(item.input_ids[: len(alone)]) != alone, "the example must merge across the border"
    text = PLAIN.decode(scored(item))
    assert text.endswith("don.</s>") and len(text) > len("don.</s>")
    common = sum(1 for _ in zip(alone, item.input_ids, strict=False))
    assert item.labels[common - 1] != -100


@pytest.mark.parametrize("name", TOKENIZERS)
def test_there_is_at_most_one_end_and_it_is_last(name):
    tokenizer = TOKENIZERS[name]
    (item,) = encoded(
        [{"prompt": "Where?", "response": " London</s></s>" if tokenizer.eos_token else " London"}], tokenizer
    ).items
    if tokenizer.eos_token_id is not None:
        assert item.input_ids.count(tokenizer.eos_token_id) == 1 and item.input_ids[-1] == tokenizer.eos_token_id


def test_a_chat_rendered_prompt_has_one_begin_token():
    (item,) = encoded([{"prompt": "Where?", "response": " London"}], CHAT).items
    assert item.input_ids.count(CHAT.bos_token_id) == 1


def test_a_text_row_is_scored_but_for_its_first_token():
    (item,) = encoded([{"text": "The old library."}]).items
    assert item.prompt == "" and item.labels[0] == -100 and -100 not in item.labels[1:]
    assert PLAIN.decode(item.input_ids) == "<s>The old library.</s>"


def test_messages_score_the_last_turn_only():
    turns = [
        {"role": "user", "content": "who"},
        {"role": "assistant", "content": "Ada"},
        {"role": "user", "content": "where"},
        {"role": "assistant", "content": "London"},
    ]
    (item,) = encoded([{"messages": turns}], CHAT).items
    assert CHAT.decode(scored(item)) == "London</s>"
    assert "Ada</s>" in item.prompt


def test_a_plain_format_renders_the_prompt_without_reading_it_as_a_format():
    source = DataSource(path="x", template="plain", plain_format="Q: {prompt}\nA:")
    assert prompt_text({"prompt": "{0} {x}", "response": ""}, CHAT, source) == "Q: {0} {x}\nA:"


def test_columns_are_mapped_by_the_source():
    source = DataSource(path="x", prompt="question", response="answer")
    (item,) = encoded([{"question": "Where?", "answer": " London"}], source=source).items
    assert item.response == " London"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"promt": "x", "response": "y"},
            r"row 1: has no column 'prompt' \(did you mean 'promt'\?\). Its columns: promt, response",
        ),
        ({"prompt": "x"}, "row 1: has no column 'response'"),
        ({"prompt": "x", "response": None}, r"column 'response' holds None \(NoneType\), expected text"),
        ({"prompt": "x", "response": 5}, r"column 'response' holds 5 \(int\)"),
        ({"messages": "hello"}, "must be a list of turns"),
        ({"messages": [{"role": "user", "content": "x"}]}, "the last turn is 'user'"),
    ],
)
def test_a_faulty_row_is_named(row, message):
    with pytest.raises(DataError, match=message):
        encoded([row], CHAT)


def test_a_chat_template_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        encoded([{"prompt": "x", "response": "y"}], source=DataSource(path="x", template="chat"))


def test_a_row_longer_than_the_limit_is_an_error_by_default():
    with pytest.raises(DataError, match=r"data.forget: f.jsonl row '0': \d+ tokens, but at most 8 are allowed"):
        encoded([{"text": "many words " * 9}], max_length=8)


def test_long_rows_are_dropped_and_counted_on_request():
    result = encoded([{"text": "many words " * 9}, {"text": "a b"}], max_length=8, overflow="drop")
    assert (
        [item.id for item in result.items] == ["1"] and result.dropped[0].id == "0" and "more than 8" in result.dropped[0].reason
    )


def test_long_rows_are_cut_and_counted_on_request():
    result = encoded([{"text": "many words " * 9}], max_length=8, overflow="truncate")
    assert longest(result) == 8 and result.truncated == 1


def test_a_row_whose_response_was_cut_away_is_dropped_not_scored_zero():
    result = encoded([{"prompt": "many words " * 9, "response": " yes"}, {"text": "a"}], max_length=8, overflow="truncate")
    assert [item.id for item in result.items] == ["1"] and result.dropped[0].reason == "no token is left to score"


def test_an_empty_response_is_dropped():
    result = encoded([{"prompt": "x", "response": ""}, {"text": "a"}])
    assert [dropped.id for dropped in result.dropped] == ["0"]


def test_a_source_without_a_usable_row_is_refused():
    with pytest.raises(DataError, match="none of its 1 rows can be used"):
        encoded([{"prompt": "x", "response": ""}])


def test_the_mask_follows_true_lengths_when_pad_is_the_end_token():
    both = encoded([{"text": "a b c d e"}, {"text": "a"}])
    batch = collate([{"r": 0}, {"r": 1}], {"r": both}, PLAIN.eos_token_id)["r"]
    assert batch["attention_mask"].sum(1).tolist() == [len(item.input_ids) for item in both.items]
    assert batch["index"].tolist() == [0, 1]


def test_joined_sources_keep_their_order_weights_and_owners():
    first = encoded([{"text": "a"}], source=DataSource(path="x", weight=2.0))
    second = encoded([{"text": "b"}, {"text": "c"}])
    both = join([first, second])
    assert both.source_of == [0, 1, 1] and both.source_weights == [2.0, 1.0] and len(both.items) == 3


def test_the_content_hash_sees_tokens_and_names():
    base = encoded([{"text": "a"}]).content_hash
    assert encoded([{"text": "a"}]).content_hash == base != encoded([{"text": "b"}]).content_hash


def test_forget_rows_inside_retain_are_refused_whatever_their_spelling():
    forget = encoded([{"prompt": "Where was Ada born?", "response": " In London."}])
    retain = encoded([{"prompt": "where was  ADA born", "response": " in london"}, {"text": "other"}])
    with pytest.raises(DataError, match=r"1 of 1 forget rows stand in the retain data too \(forget '0' is retain '0'\)"):
        check_overlap(forget, retain, False)
    assert check_overlap(forget, retain, True).exact == 1


@pytest.mark.parametrize(
    "other",
    [DataSource(path="x", template="plain", plain_format="Q: {prompt} A:"), DataSource(path="x", system="Be brief and kind.")],
    ids=["another template", "a system message"],
)
def test_the_same_fact_in_another_rendering_is_the_same_fact(other):
    row = {"prompt": "Where was Ada born?", "response": " In London."}
    with pytest.raises(DataError, match="stand in the retain data too"):
        check_overlap(encoded([row], CHAT), encoded([{**row, "prefill": " <think></think>"}], CHAT, other), False)


def test_rows_without_letters_are_told_apart():
    pairs = [("🙂", "!!"), ("?", "...")]
    forget, retain = (encoded([{"prompt": prompt, "response": response}]) for prompt, response in pairs)
    assert check_overlap(forget, retain, False).exact == 0


def test_a_shared_system_message_is_no_overlap():
    source = DataSource(path="x", system=" ".join(f"word{n}" for n in range(20)))
    one, two = (encoded([{"prompt": name, "response": " yes"}], CHAT, source) for name in ("Ada", "Bo"))
    assert check_overlap(one, two, False).ngram_share == 0.0


def test_a_turn_ends_with_the_token_of_the_template():
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "<|system|>")
    (item,) = encoded([{"prompt": "Where?", "response": " London"}], tokenizer).items
    assert tokenizer.decode(scored(item)) == " London<|system|>"


def test_a_plain_format_that_writes_the_begin_token_has_it_once():
    source = DataSource(path="x", template="plain", plain_format="<s>{prompt}")
    (item,) = encoded([{"prompt": "Where?", "response": " London"}], source=source).items
    assert item.input_ids.count(PLAIN.bos_token_id) == 1 == item.prompt_ids.count(PLAIN.bos_token_id)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_generation_starts_from_the_ids_that_training_saw(name):
    from temper.models.generation import prompt_ids

    tokenizer = TOKENIZERS[name]
    (item,) = encoded([{"prompt": "Where was Ada born?", "response": " London"}], tokenizer).items
    start = item.labels.index(next(label for label in item.labels if label != -100))
    assert prompt_ids(tokenizer, [item.prompt_ids]) == [list(item.prompt_ids)]
    assert item.input_ids[:start] == item.prompt_ids[:start] and len(item.prompt_ids) >= start


def test_a_template_that_refuses_a_row_names_it():
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(DataError, match="row 1: the chat template refused this row"):
        encoded([{"prompt": "Where?", "response": " London"}], tokenizer)


def test_shared_runs_of_thirteen_words_are_reported():
    text = " ".join(f"w{n}" for n in range(13))
    report = check_overlap(encoded([{"text": "start " + text}, {"text": "a"}]), encoded([{"text": text + " end"}]), False)
    assert (report.exact, report.ngram_share) == (0, 0.5)


def test_a_response_that_was_cut_has_no_end_token():
    source = DataSource(path="x", whole="whole")
    row = {"prompt": "Where?", "response": " London"}
    found = encoded([{**row, "whole": True}, {**row, "whole": False}, row], source=source).items
    end = PLAIN.eos_token_id
    assert [item.input_ids.count(end) for item in found] == [1, 0, 1]
    assert found[1].input_ids == found[0].input_ids[:-1] and found[1].labels == found[0].labels[:-1]


def test_a_turn_that_was_cut_does_not_end_and_a_text_does_not_either():
    source = DataSource(path="x", whole="whole")
    (turn,) = encoded([{"prompt": "Where?", "response": " London</s>", "whole": False}], CHAT, source).items
    (text,) = encoded([{"text": "The old library.", "whole": False}], source=source).items
    assert CHAT.decode(scored(turn)) == " London" and PLAIN.decode(text.input_ids) == "<s>The old library."


def test_without_a_column_that_says_so_no_response_was_cut():
    (item,) = encoded([{"prompt": "Where?", "response": " London", "whole": False}]).items
    assert item.input_ids[-1] == PLAIN.eos_token_id


def test_rows_know_their_document_and_their_topic():
    source = DataSource(path="x", document="cut_from", topic="bio")
    rows = [{"text": "a", "cut_from": "first"}, {"text": "b", "cut_from": ""}, {"text": "c"}]
    assert [(item.document, item.topic) for item in encoded(rows, source=source).items] == [
        ("first", "bio"),
        ("1", "bio"),
        ("2", "bio"),
    ]
    (plain,) = encoded([{"text": "a", "document": "first"}]).items
    assert (plain.document, plain.topic) == ("0", "default")


words = st.text(alphabet="abc dwhere?.é\n<>/s", min_size=0, max_size=20)


@settings(max_examples=200, deadline=None)
@given(
    prompt=words,
    prefill=st.sampled_from(["", " <think></think>"]),
    response=words.filter(bool),
    name=st.sampled_from(sorted(TOKENIZERS)),
)
def test_the_contract_holds_for_any_text(prompt, prefill, response, name):
    tokenizer = TOKENIZERS[name]
    rows = [{"prompt": prompt, "prefill": prefill, "response": response}, {"text": "a b c"}]
    result = encoded(rows, tokenizer)
    item = next((item for item in result.items if item.id == "0"), None)
    if item is None:
        assert result.dropped[0].id == "0"
        return
    assert len(item.input_ids) == len(item.labels)
    assert item.labels[0] == -100 and scored(item)
    assert all(label in (-100, token) for label, token in zip(item.labels, item.input_ids, strict=True))
    first = next(n for n, label in enumerate(item.labels) if label != -100)
    assert -100 not in item.labels[first:], "the scored part is one run at the end"
    end = tokenizer.eos_token_id
    if end is not None:
        assert item.input_ids[-1] == end and (len(item.input_ids) < 2 or item.input_ids[-2] != end)


def test_a_column_that_no_row_has_is_refused_with_the_nearest_one():
    rows = [{"text": "a", "cut_from": "first", "done": True}]
    with pytest.raises(
        DataError, match=r"no row has the column 'cut_form', which `document` names \(did you mean 'cut_from'\?\)"
    ):
        encoded(rows, source=DataSource(path="x", document="cut_form"))
    with pytest.raises(DataError, match="which `whole` names"):
        encoded(rows, source=DataSource(path="x", whole="whole"))


def test_documents_may_be_numbered_and_a_csv_may_say_false():
    source = DataSource(path="x", document="of", whole="done")
    rows = [{"text": "a b", "of": 3, "done": "False"}, {"text": "a b", "of": "3", "done": "true"}]
    one, two = encoded(rows, source=source).items
    assert one.document == two.document == "3"
    assert (one.input_ids[-1] == PLAIN.eos_token_id, two.input_ids[-1] == PLAIN.eos_token_id) == (False, True)


@pytest.mark.parametrize("row", [{"of": 1.5}, {"of": True}, {"of": ["a"]}, {"done": "perhaps"}, {"done": 1}])
def test_a_document_or_an_end_of_another_kind_is_refused(row):
    column = next(iter(row))
    with pytest.raises(DataError, match=f"row '0': column '{column}' holds"):
        encoded([{"text": "a", **row}], source=DataSource(path="x", **{"document" if column == "of" else "whole": column}))
