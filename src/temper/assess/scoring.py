"""Scoring one model on the rows of every role: records and continuations, kept in packs where that saves work."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from temper.assess.evidence import ModelFacts, Which
from temper.assess.measure import Answers
from temper.assess.packs import Pack, items_hash, pack_key, pack_path, read_pack, write_pack
from temper.assess.records import score
from temper.errors import DataError, ModelError
from temper.models.generation import generate, prompt_ids
from temper.models.load import load_config, load_model, load_tokenizer, pad_id_of, resolve_path, row_limit, weights_hash
from temper.recipe import EvaluateSection, ModelSection, WorldSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from temper.data import Encoded

__all__ = ["ScoredModel", "Subject", "check_prompts", "score_subject"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A model that is to be scored.

    Attributes:
        which: Its part in the comparison.
        path: As the recipe names it.
        section: How it is loaded.
        is_kept: Whether its scores stay in the cache for other runs.
    """

    which: Which
    path: str
    section: ModelSection
    is_kept: bool


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """A model's answers by role, and which weights gave them."""

    facts: ModelFacts
    answers: dict[str, Answers]


def check_prompts(rows: Mapping[str, Encoded], tokenizer: PreTrainedTokenizerBase, config: Any, max_new_tokens: int) -> None:
    """Refuse prompts that leave no room in the context for the new tokens.

    Raises:
        ModelError: Naming the longest of them.
    """
    prompts = [item.prompt for encoded in rows.values() for item in encoded.items if item.prompt]
    if prompts:
        longest = max(len(ids) for ids in prompt_ids(tokenizer, prompts))
        row_limit(config, longest + max_new_tokens, "longest evaluation prompt + evaluate.max_new_tokens")


def score_subject(
    subject: Subject,
    rows: Mapping[str, Encoded],
    tokenizer: PreTrainedTokenizerBase,
    *,
    settings: EvaluateSection,
    world: WorldSection,
    with_generations: bool,
    told: Callable[[int], None],
) -> ScoredModel:
    """Return the answers of a model on all roles; it is loaded only if a pack is missing and let go at the end.

    Args:
        subject: The model.
        rows: Encoded by `tokenizer`.
        tokenizer: Of the unlearned model; the subject's own must have the same vocabulary.
        settings: Of the recipe.
        world: What `world:` means.
        with_generations: Whether continuations are wanted.
        told: Called with a number of items after each piece of work; every item counts twice.

    Raises:
        ModelError: The model cannot be loaded, or has another vocabulary.
    """
    own = load_tokenizer(subject.path, section=subject.section, world=world)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"{subject.path}: the {subject.which} model has another vocabulary ({len(own.get_vocab())} tokens) than the unlearned one "
            f"({len(tokenizer.get_vocab())} tokens), so their token scores cannot be compared. Give a model with the same tokenizer."
        )
    width = int(load_config(subject.path, section=subject.section, world=world).get_text_config().vocab_size)
    if width < len(own):
        raise ModelError(
            f"{subject.path}: the {subject.which} model has embeddings for {width} tokens, but its tokenizer knows {len(own)}. Give the tokenizer "
            "that belongs to it."
        )
    weights = _weights(subject, world)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = f"{subject.section.dtype}/{subject.section.attention}/{device}"
    model: Any = None
    answers: dict[str, Answers] = {}
    parameters = 0
    for role, encoded in rows.items():
        items = encoded.items
        key = pack_key(
            weights=weights,
            items=items_hash(items),
            max_new_tokens=settings.max_new_tokens if with_generations else 0,
            precision=precision,
        )
        pack = _kept(key, [item.id for item in items]) if subject.is_kept else None
        if pack is None:
            if model is None:
                model = load_model(subject.path, section=subject.section, world=world)
            pack = _scored(model, tokenizer, encoded, key, settings, with_generations, told)
            if subject.is_kept:
                write_pack(pack_path(key), pack)
        else:
            told(2 * len(items))
        parameters = pack.parameters
        answers[role] = Answers(items, pack.records, pack.generations)
    if model is not None:
        del model
        gc.collect()  # two models at once may not fit
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return ScoredModel(ModelFacts(path=subject.path, weights_hash=weights, parameters=parameters), answers)


def _weights(subject: Subject, world: WorldSection) -> str:
    """Return what names the weights: the hash of local files, the commit of a hub model."""
    source = resolve_path(subject.path, world)
    if Path(source).is_dir():
        return weights_hash(source)
    commit = getattr(load_config(subject.path, section=subject.section, world=world), "_commit_hash", None)
    if commit is None:
        raise ModelError(
            f"{subject.path}: the hub gave no commit for it, so its weights cannot be named. Download it and give the folder."
        )
    return f"{source}@{commit}"


def _kept(key: str, ids: list[str]) -> Pack | None:
    path = pack_path(key)
    if not path.exists():
        return None
    try:
        return read_pack(path, key, ids)
    except DataError as error:
        log.warning("score pack is not usable and is made again: %s", error)
        return None


def _scored(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Encoded,
    key: str,
    settings: EvaluateSection,
    with_generations: bool,
    told: Callable[[int], None],
) -> Pack:
    items = encoded.items
    before = 0

    def count(done: int) -> None:
        nonlocal before
        told(done - before)
        before = done

    records = score(model, items, pad_id=pad_id_of(tokenizer), eos_id=tokenizer.eos_token_id, progress=count)
    asked = [place for place, item in enumerate(items) if item.prompt and with_generations]
    replies = generate(
        model,
        tokenizer,
        [items[place].prompt_ids or items[place].prompt for place in asked],
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
    )
    generations: list[str | None] = [None] * len(items)
    for place, reply in zip(asked, replies, strict=True):
        generations[place] = reply
    told(len(items))
    return Pack(key, sum(parameter.numel() for parameter in model.parameters()), records, generations)
