"""Scoring one model on the rows of every role: records, continuations, choices, decoding modes; kept by content where that saves work."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from temper.assess.choices import choice_entries, choice_sets, scores_of
from temper.assess.decoding.mode import Decoding
from temper.assess.evidence import ModelFacts, Which
from temper.assess.measure import Answers
from temper.assess.modes import Asked, ask, asked_of, forced_prompts, thinking_places
from temper.assess.packs import Pack, items_hash, pack_key, pack_path, read_pack, write_pack
from temper.assess.passes import Entry, pass_key, remembered
from temper.assess.records import score
from temper.assess.tags import Tags
from temper.errors import DataError, ModelError
from temper.models.generation import generate, prompt_ids
from temper.models.load import load_config, load_model, load_tokenizer, pad_id_of, resolve_path, row_limit, weights_hash
from temper.recipe import EvaluateSection, ModelSection, WorldSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from temper.data import Encoded

__all__ = ["Live", "ScoredModel", "Subject", "Wanted", "check_prompts", "context_of", "score_subject"]

log = logging.getLogger(__name__)

_UNBOUNDED = 1 << 20
"""Longest row of a model that names no context."""


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


@dataclass(frozen=True)
class Wanted:
    """What the metrics of an assessment read beside the records.

    Attributes:
        generations: Whether continuations are wanted.
        choices: Whether the rows' choices are to be scored.
        decoding: Modes in which thinking rows are asked again.
    """

    generations: bool = True
    choices: bool = False
    decoding: tuple[Decoding, ...] = ()

    def work(self, rows: Mapping[str, Encoded]) -> int:
        """Return how many units of work a model costs: two for each row, one for each choice and for each row in each mode."""
        modes = len(self.decoding) * sum(len(thinking_places(encoded)) for encoded in rows.values())
        offered = [found for role, encoded in rows.items() if self.choices for found in choice_sets(role, encoded)]
        choices = sum(len(found.texts) for found in offered if not isinstance(found, str))
        return 2 * sum(len(encoded.items) for encoded in rows.values()) + choices + modes


class Live:
    """A subject's model, loaded when it is first asked for and let go when it is told to.

    Args:
        subject: The model.
        world: What `world:` means.
        tags: How it writes thoughts; the usual way when left out.

    Attributes:
        weights: What names its weights.
        precision: Numbers that it computes in, and tags its texts are read by: what kept texts depend on beside weights and rows.
    """

    def __init__(self, subject: Subject, world: WorldSection, tags: Tags | None = None) -> None:
        self.subject = subject
        self.world = world
        self.weights = _weights(subject, world)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = f"{subject.section.dtype}/{subject.section.attention}/{device}{tags.key if tags is not None else ''}"
        self._model: Any = None

    def model(self) -> Any:
        """Return the model in evaluation mode."""
        if self._model is None:
            self._model = load_model(self.subject.path, section=self.subject.section, world=self.world)
        return self._model

    def release(self) -> None:
        """Let the model go: two at once may not fit."""
        if self._model is not None:
            self._model = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def key(self, kind: str, content: Any) -> str:
        """Return the key of a further pass of this model."""
        return pass_key(kind, weights=self.weights, precision=self.precision, content=content)


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """A model's answers by role, in the modes by name and role, and which weights gave them."""

    facts: ModelFacts
    answers: dict[str, Answers]
    modes: dict[str, dict[str, Asked]] = field(default_factory=dict)


def context_of(config: Any) -> int:
    """Return how many tokens a model can read."""
    return int(getattr(config, "max_position_embeddings", None) or _UNBOUNDED)


def check_prompts(
    rows: Mapping[str, Encoded],
    tokenizer: PreTrainedTokenizerBase,
    config: Any,
    max_new_tokens: int,
    decoding: Sequence[Decoding] = (),
) -> None:
    """Refuse prompts that leave no room in the context for the new tokens, in the rows' own form or in a decoding mode.

    Raises:
        ModelError: Naming the longest of them.
    """
    prompts = [item.prompt for encoded in rows.values() for item in encoded.items if item.prompt]
    if prompts:
        longest = max(len(ids) for ids in prompt_ids(tokenizer, prompts))
        row_limit(config, longest + max_new_tokens, "longest evaluation prompt + evaluate.max_new_tokens")
    thinking = [encoded.items[place] for encoded in rows.values() for place in thinking_places(encoded)]
    for mode in decoding if thinking else ():
        longest = max(len(ids) for ids in forced_prompts(mode, tokenizer, thinking)[1])
        row_limit(config, longest + max_new_tokens, f"longest prompt of {mode.name} + evaluate.max_new_tokens")


def score_subject(
    live: Live,
    rows: Mapping[str, Encoded],
    tokenizer: PreTrainedTokenizerBase,
    *,
    settings: EvaluateSection,
    wanted: Wanted,
    told: Callable[[int], None],
) -> ScoredModel:
    """Return the answers of a model on all roles; it is loaded only if something is missing, and stays loaded.

    Args:
        live: The model.
        rows: Encoded by `tokenizer`.
        tokenizer: Of the unlearned model; the subject's own must have the same vocabulary.
        settings: Of the recipe.
        wanted: What is to be scored beside the records.
        told: Called with a number of units of work after each piece, see `Wanted.work`.

    Raises:
        ModelError: The model cannot be loaded, or has another vocabulary.
    """
    limit = context_of(_checked_config(live, tokenizer))
    answers: dict[str, Answers] = {}
    modes: dict[str, dict[str, Asked]] = {}
    parameters = 0
    for role, encoded in rows.items():
        pack = _pack(live, tokenizer, encoded, settings, wanted.generations, told)
        parameters = pack.parameters
        choices = _choices(live, tokenizer, role, encoded, limit, told) if wanted.choices else []
        answers[role] = Answers(encoded.items, pack.records, pack.generations, choices)
        if places := thinking_places(encoded):
            for mode in wanted.decoding:
                texts = _in_mode(live, tokenizer, mode, encoded, places, settings, told)
                modes.setdefault(mode.name, {})[role] = asked_of(mode, answers[role], places, texts)
    return ScoredModel(ModelFacts(path=live.subject.path, weights_hash=live.weights, parameters=parameters), answers, modes)


def _checked_config(live: Live, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the configuration of a subject that writes and reads the same tokens as the unlearned model."""
    subject, world = live.subject, live.world
    own = load_tokenizer(subject.path, section=subject.section, world=world)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"{subject.path}: the {subject.which} model has another vocabulary ({len(own.get_vocab())} tokens) than the unlearned one "
            f"({len(tokenizer.get_vocab())} tokens), so their token scores cannot be compared. Give a model with the same tokenizer."
        )
    config = load_config(subject.path, section=subject.section, world=world)
    width = int(config.get_text_config().vocab_size)
    if width < len(own):
        raise ModelError(
            f"{subject.path}: the {subject.which} model has embeddings for {width} tokens, but its tokenizer knows {len(own)}. Give the tokenizer "
            "that belongs to it."
        )
    return config


def _pack(
    live: Live,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Encoded,
    settings: EvaluateSection,
    with_generations: bool,
    told: Callable[[int], None],
) -> Pack:
    """Return records and continuations of a role."""
    items = encoded.items
    key = pack_key(
        weights=live.weights,
        items=items_hash(items),
        max_new_tokens=settings.max_new_tokens if with_generations else 0,
        precision=live.precision,
    )
    pack = _kept(key, [item.id for item in items]) if live.subject.is_kept else None
    if pack is not None:
        told(2 * len(items))
        return pack
    pack = _scored(live.model(), tokenizer, encoded, key, settings, with_generations, told)
    if live.subject.is_kept:
        write_pack(pack_path(key), pack)
    return pack


def _choices(
    live: Live,
    tokenizer: PreTrainedTokenizerBase,
    role: str,
    encoded: Encoded,
    limit: int,
    told: Callable[[int], None],
) -> list[Any]:
    """Return the scores of the choices of every row of a role."""
    sets = choice_sets(role, encoded)
    offered = sum(len(found.texts) for found in sets if not isinstance(found, str))
    if not offered:
        return []
    texts = [None if isinstance(found, str) else found.texts for found in sets]
    counted = 0

    def count(done: int) -> None:
        nonlocal counted
        counted += done
        told(done)

    def compute() -> list[Entry]:
        return choice_entries(live.model(), tokenizer, encoded.items, sets, limit=limit, told=count)

    key = live.key("choices", [items_hash(encoded.items), texts, limit]) if live.subject.is_kept else None
    entries = remembered(key, compute)
    told(offered - counted)
    return [scores_of(entry, found) for entry, found in zip(entries, sets, strict=True)]


def _in_mode(
    live: Live,
    tokenizer: PreTrainedTokenizerBase,
    mode: Decoding,
    encoded: Encoded,
    places: Sequence[int],
    settings: EvaluateSection,
    told: Callable[[int], None],
) -> list[Entry]:
    """Return what a model says on the thinking rows of a role in a mode."""
    items = [encoded.items[place] for place in places]
    content = [items_hash(items), [mode.forced(item.prompt, item.response) for item in items], settings.max_new_tokens]
    texts = remembered(
        live.key("decoding", content) if live.subject.is_kept else None,
        lambda: ask(mode, live.model(), tokenizer, items, settings),
    )
    told(len(places))
    return texts


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
