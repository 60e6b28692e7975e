"""The examination of a built model, and the bars that a built world has to clear.

Answers are compared strictly: the text after the trace (or after the prefill, in direct mode), up to the end of the
reply and without outer blanks, must equal the value. A reply that runs on is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from temper.draws import generator
from temper.errors import InputError, nearest
from temper.world.answers import Answered
from temper.world.arithmetic import distinct_stories
from temper.world.people import Person, World
from temper.world.tokenizer import prompt_text
from temper.world.wordings import ATTRIBUTES, BACKGROUND, FACT_QUESTIONS, KINDS, REASONING_QUESTIONS

__all__ = ["SUBSETS", "TARGETS", "Figure", "Target", "answer_of", "exam", "questions_of", "shortfalls"]

_N_STORIES = 200
_NEW_TOKENS_DIRECT = 8
_NEW_TOKENS_THINK = 96  # the longest trace has about 50 tokens
_CLOSE = "</think>"


class Figure(TypedDict):
    """An accuracy and the number of questions behind it."""

    value: float
    n: int


@dataclass(frozen=True)
class Target:
    """A bar: the value of ``key`` has to be on the right side of ``bound``."""

    key: str
    side: Literal["at least", "below"]
    bound: float

    def met_by(self, value: float) -> bool:
        """Return whether a value clears the bar."""
        return value >= self.bound if self.side == "at least" else value < self.bound


TARGETS = (
    Target("facts_direct", "at least", 0.95),
    Target("facts_think", "at least", 0.95),
    Target("reasoning_trained_retain", "at least", 0.97),
    Target("reasoning_trained_rheld", "at least", 0.97),
    Target("reasoning_unseen_retain", "at least", 0.85),
    Target("reasoning_unseen_rheld", "at least", 0.85),
    Target("stories", "at least", 0.90),
    Target("reasoning_without_trace", "below", 0.25),
)
"""What the original model of the default size has to reach with every seed."""


def _known(world: World) -> list[Person]:
    return world.split("retain", "neighbour")


def _facts(world: World, people: Sequence[Person], *, think: bool) -> list[Answered]:
    asked = []
    for person in people:
        for i, attribute in enumerate(ATTRIBUTES):
            wordings = FACT_QUESTIONS[attribute]
            wording = len(wordings.trained) + (person.number + i) % len(wordings.unseen)
            rng = generator(world.spec.seed, "exam", person.number, attribute)
            asked.append(
                world.fact_think(person, attribute, wording, rng) if think else world.fact_direct(person, attribute, wording)
            )
    return asked


def _reasoning(world: World, people: Sequence[Person], *, unseen: bool, think: bool = True) -> list[Answered]:
    asked = []
    for person in people:
        for i, kind in enumerate(KINDS):
            wordings = REASONING_QUESTIONS[kind]
            choices = len(wordings.unseen if unseen else wordings.trained)
            wording = (person.number + i) % choices + (len(wordings.trained) if unseen else 0)
            rng = generator(world.spec.seed, "exam", person.number, kind)
            asked.append(
                world.reasoning_think(person, kind, wording, rng) if think else world.reasoning_direct(person, kind, wording)
            )
    return asked


def _stories(world: World) -> list[Answered]:
    rng = generator(world.spec.seed, "exam", "stories")
    return [story.told() for story in distinct_stories(rng, _N_STORIES, reserved=True)]


def _background(world: World) -> list[Answered]:
    facts = world.background_facts()
    return [world.background_direct(r, s, len(BACKGROUND[r].questions.trained)) for r, s, _ in facts]


SUBSETS: dict[str, Callable[[World], list[Answered]]] = {
    "facts_direct": lambda w: _facts(w, _known(w), think=False),
    "facts_think": lambda w: _facts(w, _known(w), think=True),
    "reasoning_trained_retain": lambda w: _reasoning(w, _known(w), unseen=False),
    "reasoning_trained_rheld": lambda w: _reasoning(w, w.split("rheld"), unseen=False),
    "reasoning_unseen_retain": lambda w: _reasoning(w, _known(w), unseen=True),
    "reasoning_unseen_rheld": lambda w: _reasoning(w, w.split("rheld"), unseen=True),
    "reasoning_without_trace": lambda w: _reasoning(w, _known(w), unseen=False, think=False),
    "stories": _stories,
    "background": _background,
    "forget_direct": lambda w: _facts(w, w.split("forget"), think=False),
    "forget_think": lambda w: _facts(w, w.split("forget"), think=True),
    "forget_reasoning": lambda w: _reasoning(w, w.split("forget"), unseen=False),
    "holdout_direct": lambda w: _facts(w, w.split("holdout"), think=False),
}
"""What can be asked: facts in unseen wordings, reasoning in trained and unseen ones, the reserved stories, and so on."""


def questions_of(world: World, subset: str) -> list[Answered]:
    """Return the questions of one subset with their answers.

    Raises:
        InputError: No such subset.
    """
    if subset not in SUBSETS:
        raise InputError(f"exam subset {subset!r} does not exist{nearest(subset, SUBSETS)}. Choose of: {', '.join(SUBSETS)}.")
    return SUBSETS[subset](world)


def answer_of(prefill: str, reply: str) -> str | None:
    """Return the answer in a reply, or None if a reply in think mode never closes its trace.

    Example:
        >>> answer_of(" <think>", " I recall. So the answer is 7.</think> 7")
        '7'
    """
    if _CLOSE in prefill:
        return reply.strip()
    _, close, answer = reply.partition(_CLOSE)
    return answer.strip() if close else None


def exam(
    world: World, generate: Callable[[list[str], int], list[str]], *, on: Sequence[str] = tuple(SUBSETS)
) -> dict[str, Figure]:
    """Return the accuracy of a model on each subset.

    Args:
        world: The world the model was built from.
        generate: Takes prompts (full texts, prefill included) and a largest number of new tokens; returns the greedy
            continuations with special tokens kept, up to and without the end token.
        on: Names of subsets.
    """
    asked = {subset: questions_of(world, subset) for subset in on}
    replies: dict[str, list[str]] = {}
    for close_first in (True, False):
        chosen = [s for s in on if (_CLOSE in asked[s][0].prefill) == close_first]
        prompts = [prompt_text(q.prompt) + q.prefill for s in chosen for q in asked[s]]
        if prompts:
            texts = iter(generate(prompts, _NEW_TOKENS_DIRECT if close_first else _NEW_TOKENS_THINK))
            replies |= {s: [next(texts) for _ in asked[s]] for s in chosen}
    figures: dict[str, Figure] = {}
    for subset in on:
        right = [answer_of(q.prefill, r) == q.answer for q, r in zip(asked[subset], replies[subset], strict=True)]
        figures[subset] = {"value": sum(right) / len(right), "n": len(right)}
    return figures


def shortfalls(results: Mapping[str, Figure]) -> list[str]:
    """Return one line for each bar that a result misses or does not speak about; an empty list means all are met."""
    lines = []
    for target in TARGETS:
        if target.key not in results:
            lines.append(f"{target.key}: not measured; the bar is {target.side} {target.bound:.2f}")
        elif not target.met_by(results[target.key]["value"]):
            figure = results[target.key]
            lines.append(
                f"{target.key}: {figure['value']:.3f} of {figure['n']} questions; the bar is {target.side} {target.bound:.2f}"
            )
    return lines
