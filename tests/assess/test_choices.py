import numpy as np
import pytest
import torch

from temper.assess.choices import MIXED, NO_CHOICES, Choices, choice_entries, choices_of, option_set
from temper.assess.records import token_log_probs
from temper.data import encode
from temper.errors import DataError
from temper.recipe import DataSource
from tests.assess.builders import item
from tests.data.tokenizers import make_tokenizer


def test_choices_are_named_by_text_by_place_and_by_letter():
    texts = [" Rome", " Bern", " Oslo"]
    for answer in ("Bern", " Bern", 1, "B"):
        assert choices_of(item("a", choices=texts, answer=answer)) == Choices(tuple(texts), 1)


def test_a_letter_that_is_a_choice_means_itself():
    assert choices_of(item("a", choices=[" B", " A"], answer="A")) == Choices((" B", " A"), 1)


def test_without_an_answer_the_response_is_the_right_one():
    assert choices_of(item("a", response=" Bern", choices=[" Rome", " Bern"])).right == 1


def test_wrong_responses_stand_beside_the_rows_own():
    found = choices_of(item("a", response=" Bern", perturbed=[" Rome", " Bern ", " Oslo"]))
    assert found == Choices((" Bern", " Rome", " Oslo"), 0)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({}, NO_CHOICES),
        ({"choices": []}, NO_CHOICES),
        ({"choices": [" R"], "answer": 0}, "it has one choice only"),
        ({"perturbed": []}, "it has one choice only"),
        ({"perturbed": [" R"]}, "it has one choice only"),
        ({"response": " so</think> R", "perturbed": [" S"]}, MIXED),
    ],
)
def test_a_row_without_choices_says_why(row, why):
    assert choices_of(item("a", **row)) == why


def test_a_thinking_answer_has_thinking_wrong_ones():
    row = {"response": " so</think> R", "perturbed": [" so</think> S"]}
    assert choices_of(item("a", **row)) == Choices((" so</think> R", " so</think> S"), 0)


def test_a_text_row_has_no_prompt():
    assert choices_of(item("a", prompt="", choices=[" R", " S"], answer=0)) == "it has no prompt"


@pytest.mark.parametrize("answer", ["Paris", 2, -1, True, None, 1.0])
def test_an_answer_that_is_not_among_the_choices_is_refused_with_its_row(answer):
    with pytest.raises(DataError, match=r"evaluate\.data\.forget row 'q7': answer"):
        choices_of(item("q7", choices=[" Rome", " Bern"], answer=answer), "evaluate.data.forget")


@pytest.mark.parametrize("column", ["choices", "perturbed", "options"])
@pytest.mark.parametrize("value", [" Rome", {"a": 1}, [" Rome", 3], [" Rome", " "]])
def test_choices_that_are_no_list_of_texts_are_refused_with_column_and_row(column, value):
    with pytest.raises(DataError, match=rf"row 'q7': column '{column}' holds"):
        (option_set if column == "options" else choices_of)(item("q7", answer=0, **{column: value}))


def test_options_come_before_choices():
    row = {"options": ["Rome", "Bern"], "choices": [" A", " B"], "answer": 1}
    assert option_set(item("a", **row)) == Choices(("Rome", "Bern"), 1)
    assert option_set(item("a", choices=[" A", " B"], answer=1)) == Choices((" A", " B"), 1)
    assert option_set(item("a", response=" R")) is None


ROWS = [
    {
        "id": "towns",
        "prompt": "Where was Ada born?",
        "response": " London",
        "perturbed": [" Rome in this town", " Rome", " Bern"],
    },
    {"id": "letters", "prompt": "Where? A) Rome B) London", "response": " B", "choices": [" A", " B", " C"], "answer": 1},
    {"id": "none", "prompt": "Who?", "response": " Ada"},
]


@pytest.fixture
def scene(make_llama):
    tokenizer = make_tokenizer(chat=True)
    model = make_llama(vocab=len(tokenizer), context=128)
    encoded = encode(ROWS, tokenizer, DataSource(path="rows"), max_length=128, overflow="error", where="rows")
    return model, tokenizer, encoded.items, [choices_of(one) for one in encoded.items]


def by_hand(model, tokenizer, prompt, text):
    """Return the sum of log p of a text after a prompt, one row and one full forward at a time."""
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(log_probs[place - 1, ids[place]]) for place in range(len(start), len(ids)))


def test_sums_equal_those_of_one_full_forward_a_choice(scene):
    model, tokenizer, items, sets = scene
    seen = []
    entries = choice_entries(model, tokenizer, items, sets, limit=128, told=seen.append)
    assert entries[2] is None and sum(seen) == 7
    for one, found, entry in zip(items[:2], sets, entries, strict=False):
        expected = [by_hand(model, tokenizer, one.prompt, text) for text in found.texts]
        np.testing.assert_allclose(entry, expected, rtol=1e-5)


def test_letters_of_a_row_share_one_row_of_the_pass(scene, monkeypatch):
    model, tokenizer, items, sets = scene
    rows = []

    def counted(model, items, **kwargs):
        rows.extend(items)
        return token_log_probs(model, items, **kwargs)

    monkeypatch.setattr("temper.assess.records.token_log_probs", counted)
    choice_entries(model, tokenizer, items[1:2], sets[1:2], limit=128, told=lambda _: None)
    assert len(rows) == 1


def test_a_row_with_a_choice_beyond_the_context_has_none(scene):
    model, tokenizer, items, sets = scene
    longest = max(len(tokenizer(items[0].prompt + text, add_special_tokens=False)["input_ids"]) for text in sets[0].texts)
    seen = []
    entries = choice_entries(model, tokenizer, items[:1], sets[:1], limit=longest - 1, told=seen.append)
    assert entries == [None] and sum(seen) == 4
