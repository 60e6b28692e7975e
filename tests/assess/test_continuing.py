import pytest

from temper.assess.continuing import prompts_with, scored_after
from temper.data import encode
from temper.recipe import DataSource
from tests.data.tokenizers import CHAT, make_tokenizer

ROWS = [{"id": "a", "prompt": "Where was Ada born?", "prefill": "<think>", "response": " Ada was born in London.</think> London"}]


def encoded(tokenizer, rows=ROWS, **source):
    settings = DataSource(path="rows", **source)
    return encode(rows, tokenizer, settings, max_length=128, overflow="error", where="rows").items


TOKENIZERS = [
    make_tokenizer(chat=True),
    make_tokenizer(chat=False),
    make_tokenizer(chat=False, bos=False),
    make_tokenizer(chat=False, adds_eos=True),
]
WITHOUT_BEGIN = make_tokenizer(chat=True)
WITHOUT_BEGIN.chat_template = CHAT.replace("{{ bos_token }}", "")  # then the tokenizer writes it
TOKENIZERS.append(WITHOUT_BEGIN)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_rows_own_response_gets_the_ids_of_the_row_without_the_end(tokenizer):
    (item,) = encoded(tokenizer)
    (again,) = scored_after(tokenizer, [item], [""], [item.response])
    end = tokenizer.eos_token_id
    kept = len(item.input_ids) - (item.input_ids[-1] == end)
    assert again.input_ids == item.input_ids[:kept]
    assert again.labels == item.labels[:kept]
    assert prompts_with(tokenizer, [item], [""]) == [item.prompt_ids]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_what_is_given_is_not_scored_and_what_follows_is(tokenizer):
    (item,) = encoded(tokenizer)
    (made,) = scored_after(tokenizer, [item], [" Ada was"], [" born in London."])
    scored = [token for token, label in zip(made.input_ids, made.labels, strict=True) if label != -100]
    assert tokenizer.decode(scored) == " born in London."
    (start,) = prompts_with(tokenizer, [item], [" Ada was"])
    assert made.input_ids[: len(start)] == start == made.prompt_ids


def test_a_token_over_the_border_belongs_to_the_text():
    tokenizer = make_tokenizer(corpus=["Ada ab ab ab abab"] * 9)
    (item,) = encoded(tokenizer, [{"id": "a", "prompt": "a", "response": "b"}])
    (made,) = scored_after(tokenizer, [item], [""], ["b"])
    assert made.labels == item.labels[:-1] and made.labels[-1] != -100


def test_an_empty_text_leaves_no_label():
    tokenizer = make_tokenizer()
    (item,) = encoded(tokenizer)
    (made,) = scored_after(tokenizer, [item], [" x"], [""])
    assert set(made.labels) == {-100}
