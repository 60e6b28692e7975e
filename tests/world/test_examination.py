"""The examination and its bars."""

from __future__ import annotations

import pytest

from temper.errors import InputError
from temper.world.examination import SUBSETS, TARGETS, Figure, answer_of, exam, questions_of, shortfalls
from temper.world.people import World
from temper.world.tokenizer import prompt_text
from temper.world.wordings import ATTRIBUTES, KINDS


def _oracle(world: World) -> dict[str, str]:
    return {prompt_text(q.prompt) + q.prefill: q.response for s in SUBSETS for q in questions_of(world, s)}


def test_an_oracle_gets_everything_right(world: World) -> None:
    known = _oracle(world)
    results = exam(world, lambda prompts, _: [known[p] for p in prompts])
    assert {figure["value"] for figure in results.values()} == {1.0}


def test_a_model_that_always_says_the_same_gets_nothing_right(world: World) -> None:
    results = exam(world, lambda prompts, _: [" </think> nonsense"] * len(prompts))
    assert {figure["value"] for figure in results.values()} == {0.0}


def test_an_answer_that_runs_on_is_wrong(world: World) -> None:
    known = _oracle(world)
    results = exam(world, lambda prompts, _: [known[p] + " and more" for p in prompts], on=["facts_direct", "stories"])
    assert {figure["value"] for figure in results.values()} == {0.0}


def test_a_trace_without_end_is_wrong(world: World) -> None:
    known = _oracle(world)
    results = exam(world, lambda prompts, _: [known[p].split("</think>")[0] for p in prompts], on=["facts_think"])
    assert results["facts_think"]["value"] == 0.0


def test_direct_questions_get_few_new_tokens_and_traces_get_room(world: World) -> None:
    seen: dict[bool, set[int]] = {True: set(), False: set()}

    def generate(prompts: list[str], new_tokens: int) -> list[str]:
        for prompt in prompts:
            seen[prompt.endswith("</think>")].add(new_tokens)
        return [""] * len(prompts)

    exam(world, generate)
    assert max(seen[True]) < min(seen[False])


def test_subsets_have_one_question_a_fact_or_kind(world: World) -> None:
    results = exam(world, lambda prompts, _: [""] * len(prompts))
    known = world.spec.n_retain + world.spec.n_neighbour
    assert results["facts_direct"]["n"] == known * len(ATTRIBUTES)
    assert results["reasoning_unseen_rheld"]["n"] == world.spec.n_rheld * len(KINDS)


def test_an_unknown_subset_names_the_nearest(world: World) -> None:
    with pytest.raises(InputError, match="did you mean 'stories'"):
        exam(world, lambda prompts, _: prompts, on=["storys"])


def test_the_answer_is_what_follows_the_first_closed_trace() -> None:
    assert answer_of(" <think>", " a </think> 7") == "7"
    assert answer_of(" <think>", " a </think> 7 </think> 8") == "7 </think> 8"
    assert answer_of(" <think> </think>", " 7") == "7"
    assert answer_of(" <think>", " never closed") is None


def _results(**changed: float) -> dict[str, Figure]:
    good = {t.key: t.bound if t.side == "at least" else 0.0 for t in TARGETS}
    return {key: {"value": value, "n": 10} for key, value in (good | changed).items()}


def test_results_at_the_bars_have_no_shortfall() -> None:
    assert shortfalls(_results()) == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.key)
def test_each_bar_can_be_missed(target: object) -> None:
    key, bound = target.key, target.bound  # type: ignore[attr-defined]
    missed = bound - 0.01 if target.side == "at least" else bound  # type: ignore[attr-defined]
    (line,) = shortfalls(_results(**{key: missed}))
    assert line.startswith(f"{key}: {missed:.3f}")


def test_a_figure_that_was_not_measured_is_a_shortfall() -> None:
    results = _results()
    del results["stories"]
    assert shortfalls(results) == ["stories: not measured; the bar is at least 0.90"]
