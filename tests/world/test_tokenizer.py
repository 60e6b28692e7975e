"""The tokenizer and the contract of a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from temper.world.answers import DIRECT, THINK
from temper.world.epoch import epoch
from temper.world.people import World
from temper.world.tokenizer import EOS, SPECIAL_TOKENS, build_tokenizer, prompt_text, words
from temper.world.training import encode


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Any:
    return build_tokenizer(world)


def _chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def test_it_is_a_function_of_the_world(world: World, tokenizer: Any) -> None:
    again = build_tokenizer(World(world.spec))
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_every_id_is_below_its_length(tokenizer: Any) -> None:
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_special_ids_are_set_and_distinct(tokenizer: Any) -> None:
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(SPECIAL_TOKENS)))
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")


def test_the_length_limit_is_that_of_the_model(world: World, tokenizer: Any) -> None:
    assert tokenizer.model_max_length == world.spec.max_length


def test_every_word_of_the_world_is_one_token(world: World, tokenizer: Any) -> None:
    split = [word for word in words(world) if len(tokenizer(word, add_special_tokens=False).input_ids) != 1]
    assert split == []


@pytest.mark.parametrize("text", ["Zürich, naïve café!", "tabs\tand\nlines", "日本語 🎈", "don't   stop", "a<b & c>d 1234567"])
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids).removeprefix(" ") == text


def test_the_chat_template_gives_the_prompt_text(tokenizer: Any) -> None:
    question = "Where was Ann born?"
    assert tokenizer.apply_chat_template(_chat(question), tokenize=False, add_generation_prompt=True) == prompt_text(question)


def test_a_conversation_ends_each_assistant_turn_with_eos(tokenizer: Any) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<s><|user|> Be brief. One?<|assistant|> 1</s><|user|> Two?<|assistant|> 2</s>"


def test_an_unknown_role_is_refused(tokenizer: Any) -> None:
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_a_row_joined_without_glue_has_the_ids_of_training(world: World, tokenizer: Any) -> None:
    documents = [d for d in epoch(world, 0) if not isinstance(d, str)]
    for document, (ids, start) in zip(documents, encode(tokenizer, list(documents)), strict=True):
        chat = tokenizer.apply_chat_template(_chat(document.prompt), tokenize=False, add_generation_prompt=True)
        head = chat + document.prefill
        assert tokenizer(head + document.response + EOS, add_special_tokens=False).input_ids == ids
        assert tokenizer(head, add_special_tokens=False).input_ids == ids[:start]
        assert tokenizer(document.response + EOS, add_special_tokens=False).input_ids == ids[start:]


def test_a_full_conversation_has_the_ids_of_a_row(world: World, tokenizer: Any) -> None:
    asked = world.fact_direct(world.people[0], "city", 0)
    turns = [*_chat(asked.prompt), {"role": "assistant", "content": asked.prefill + asked.response}]
    row = prompt_text(asked.prompt) + asked.prefill + asked.response + EOS
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    assert tokenizer(rendered, add_special_tokens=False).input_ids == tokenizer(row, add_special_tokens=False).input_ids


def test_the_prefills_are_one_and_two_tokens(tokenizer: Any) -> None:
    assert tokenizer(THINK, add_special_tokens=False).input_ids == tokenizer.convert_tokens_to_ids(["<think>"])
    assert tokenizer(DIRECT, add_special_tokens=False).input_ids == tokenizer.convert_tokens_to_ids(["<think>", "</think>"])


def test_only_the_response_is_scored(world: World, tokenizer: Any) -> None:
    asked = world.fact_direct(world.people[0], "city", 0)
    ((ids, start),) = encode(tokenizer, [asked])
    assert tokenizer.decode(ids[start:]) == f" {asked.answer}</s>"


def test_of_a_plain_text_all_but_the_first_token_is_scored(world: World, tokenizer: Any) -> None:
    ((ids, start),) = encode(tokenizer, ["4 + 3 = 7."])
    assert start == 1
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id


def test_it_is_the_same_after_saving(world: World, tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = [prompt_text("Where was Ann born?") + DIRECT + " Paris</s>", "Plain text.", " <think> so </think> 7"]
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert again.chat_template == tokenizer.chat_template
    assert (again.pad_token_id, again.eos_token_id, again.model_max_length) == (0, 2, world.spec.max_length)
