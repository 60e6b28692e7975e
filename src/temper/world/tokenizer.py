"""The tokenizer of a world: a byte-level BPE that holds every word of the world as one token and can spell any other text.

Two details matter to a model this small. Special tokens swallow the blank in front of them, so that ``<think> </think>``
is two tokens; with a blank token between them the direct and the think mode blur. And the first word of a text gets a
blank in front, so that a word has one token wherever it stands.

A row is ``apply_chat_template(prompt) + prefill + response + eos``, joined as text without any glue and tokenised with
``add_special_tokens=False``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from temper.world import cues, preferences, verbose
from temper.world.answers import Answered
from temper.world.epoch import epoch
from temper.world.people import World
from temper.world.wordings import ATTRIBUTES, BACKGROUND, FACT_QUESTIONS, KINDS, REASONING_QUESTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["CHAT_TEMPLATE", "EOS", "SPECIAL_TOKENS", "build_tokenizer", "prompt_text"]

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<think>", "</think>")
EOS = "</s>"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% set lead = namespace(text='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set lead.text = message['content'] | trim + ' ' %}"
    "{% elif message['role'] == 'user' %}{{ '<|user|> ' + lead.text + message['content'] | trim }}{% set lead.text = '' %}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|> ' + message['content'] | trim + eos_token }}"
    "{% else %}{{ raise_exception('the roles are system, user and assistant, not ' + message['role']) }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A system text opens the user turn that follows it: the model knows two speakers only."""

_VOCABULARY_LIMIT = 4096  # never reached: the words of a world run out of merges before
_WORD = re.compile(r"<\|?/?\w+\|?>| ?[^\W\d_]+| ?\d+| ?[^\s\w]+")


def prompt_text(question: str) -> str:
    """Return the text before the prefill; equal to ``apply_chat_template`` with a generation prompt.

    Example:
        >>> prompt_text("Who?")
        '<s><|user|> Who?<|assistant|>'
    """
    return f"<s><|user|> {question.strip()}<|assistant|>"


def _corpus(world: World) -> Iterator[str]:
    for document in (*epoch(world, 0), *epoch(world, 1)):
        yield document if isinstance(document, str) else f"{document.prompt} {document.response}"
    everyone: list[Answered] = []
    for person in world.people:
        yield from (sentence for attribute in ATTRIBUTES for sentence in world.statements(person, attribute))
    for person in world.people[:1]:
        everyone += [world.fact_direct(person, a, i) for a in ATTRIBUTES for i in range(len(FACT_QUESTIONS[a].all))]
        everyone += [world.reasoning_direct(person, k, i) for k in KINDS for i in range(len(REASONING_QUESTIONS[k].all))]
    for relation, subject, _ in world.background_facts():
        yield world.background_statement(relation, subject)
        everyone += [world.background_direct(relation, subject, i) for i in range(len(BACKGROUND[relation].questions.all))]
    yield from (f"{a.prompt} {a.response}" for a in everyone)
    yield " ".join(value for pool in world.pools.values() for value in pool)
    yield " ".join(str(n) for n in range(20))
    yield from (f"{row['prompt']} {row['chosen']} {row['rejected']}" for row in preferences.rows(world))
    yield from (f"{row['prompt']} {' '.join(row['labels'])}" for row in cues.rows(world))
    yield from (row["response"] for row in verbose.rows(world))


def words(world: World) -> list[str]:
    """Return every word of a world once, sorted, each with the blank that stands before it in running text."""
    found = {word for text in _corpus(world) for word in _WORD.findall(f" {text}")}
    return sorted(found - set(SPECIAL_TOKENS))


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a world; a function of the world alone.

    The training text is every word once and in order: the merges depend on no thread and no count.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = decoders.ByteLevel()
    special = [AddedToken(token, lstrip=True, special=True, normalized=False) for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        special_tokens=special,
        vocab_size=_VOCABULARY_LIMIT,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(words(world), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token=EOS,
        extra_special_tokens=list(SPECIAL_TOKENS[3:]),
        padding_side="left",
        add_prefix_space=True,
        model_max_length=world.spec.max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
