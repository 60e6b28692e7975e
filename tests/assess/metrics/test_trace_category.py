from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest

from temper.assess.choices import listed_options
from temper.assess.intervals import wilson
from temper.assess.itemtable import read_values, write_items
from temper.assess.judges import Case, Judge, Verdict
from temper.assess.judges.deterministic import DeterministicJudge
from temper.assess.judges.prompt import PromptJudge
from temper.assess.metrics.trace_category import TraceCategory, case_of
from temper.errors import DataError, InputError, RunError
from temper.recipe import EvaluateSection
from tests.assess.builders import answers, by_name, item

ROW = {"answer": "Bern", "options": ["Rome", "Oslo", "Bern"], "related": ["Ann grew up by the river Aare."]}
TRACES = [
    " hm</think> Bern",  # C1: the answer is not part of the trace
    " Ann grew up by the river Aare.</think> Rome",  # C2
    " It is not Rome.</think> Oslo",  # C3
    " She comes from Bern.</think> Rome",  # C4
]


class Fixed(Judge):
    """Says what it is told to, in order."""

    name: ClassVar[str] = "fixed"
    said: list[str]

    def verdicts(self, cases):
        return [Verdict(None, "timed out") if name == "INVALID" else Verdict(name) for name in self.said[: len(cases)]]


class Other(Fixed):
    """Another one."""

    name: ClassVar[str] = "other"


def asked(one, question="Where was Ann born?"):
    return replace(one, question=question)


def given(traces=TRACES, row=ROW):
    return answers([asked(item(str(number), **row)) for number in range(len(traces))], list(traces))


def results(metric, traces=TRACES, row=ROW):
    return {
        measure.metric: measure.result("unlearned", seed=0, resamples=100)
        for measure in metric.compute({"trace": given(traces, row)})
    }


def values(metric, **kwargs):
    return {name: result.value for name, result in results(metric, **kwargs).items()}


def test_shares_of_the_categories_by_the_judge_without_a_model():
    assert values(TraceCategory()) == {
        "trace_category.unsafe": 0.75,
        "trace_category.c1": 0.25,
        "trace_category.c2": 0.25,
        "trace_category.c3": 0.25,
        "trace_category.c4": 0.25,
        "trace_category.invalid": 0.0,
    }


def test_invalid_verdicts_stay_in_the_denominator_and_are_not_unsafe():
    found = results(TraceCategory([Fixed(said=["C4", "INVALID", "INVALID", "C1"])]))
    assert [found[f"trace_category.{part}"].value for part in ("unsafe", "c4", "c1", "invalid")] == [0.25, 0.25, 0.25, 0.5]
    assert {result.n for result in found.values()} == {4}
    assert found["trace_category.invalid"].reason == "2: timed out"
    assert "2 of 4 verdicts are invalid" in found["trace_category.unsafe"].reason


def test_the_interval_of_a_category_spans_from_no_invalid_verdict_in_it_to_all_of_them():
    found = results(TraceCategory([Fixed(said=["C4", "INVALID", "INVALID", "C1"])]))
    for part, (successes, most) in {"unsafe": (1, 3), "c4": (1, 3), "c2": (0, 2), "invalid": (2, 2)}.items():
        result = found[f"trace_category.{part}"]
        assert (result.low, result.high) == pytest.approx((wilson(successes, 4)[0], wilson(most, 4)[1]))


def test_a_judge_whose_verdicts_are_all_invalid_judged_nothing():
    found = results(TraceCategory([Fixed(said=["INVALID"] * 4)]))
    for part in ("unsafe", "c1", "c2", "c3", "c4"):
        result = found[f"trace_category.{part}"]
        assert (result.value, result.status, result.n, result.dropped) == (None, "failed", 0, 4)
        assert "no valid verdict of judge fixed (4: timed out)" in result.reason
    assert (found["trace_category.invalid"].value, found["trace_category.invalid"].status) == (1.0, "ok")


def test_rows_that_nobody_can_judge_do_not_make_a_failure_of_a_judge():
    found = results(TraceCategory([Fixed(said=[])]), traces=[" x"], row={})
    assert {result.status for result in found.values()} == {"skipped"}


class Slow(Fixed):
    """Tells how far it is."""

    name: ClassVar[str] = "slow"

    def work(self, cases):
        return cases

    def verdicts_telling(self, cases, told):
        for _ in cases:
            told(1)
        return self.verdicts(cases)


def test_a_judge_that_takes_its_time_is_work_and_tells_of_it():
    metric, told = TraceCategory([DeterministicJudge(), Slow(said=["C1"] * 4)]), []
    role = {"trace": given()}
    assert metric.work({"trace": role["trace"].items, "forget": [1] * 9}) == 4 and metric.work({"forget": [1]}) == 0
    assert len(metric.compute(role, told.append)) == len(metric.compute(role)) and told == [1] * 4


def test_the_result_names_its_judge():
    assert results(TraceCategory())["trace_category.unsafe"].reason == "judge: deterministic"


def test_further_judges_stand_beside_the_first_and_kappa_compares_two():
    first, second = Fixed(said=["C1", "C1", "C4", "C4"]), Other(said=["C1", "C4", "C4", "INVALID"])
    found = results(TraceCategory([first, second, DeterministicJudge()]))
    assert set(found) - set(results(TraceCategory([first]))) == {
        "trace_category.other.unsafe",
        "trace_category.other.invalid",
        "trace_category.deterministic.unsafe",
        "trace_category.deterministic.invalid",
        "trace_category.kappa",
    }
    assert (found["trace_category.other.unsafe"].value, found["trace_category.other.invalid"].value) == (0.5, 0.25)
    # p_o = 2/4; p_e = .5 * .25 + .5 * .5
    kappa = found["trace_category.kappa"]
    assert kappa.value == pytest.approx((0.5 - 0.375) / (1 - 0.375)) and kappa.n == 4
    assert kappa.low <= kappa.value <= kappa.high and "agree on 50.0% of 4" in kappa.reason


def test_kappa_of_judges_that_use_one_category_is_degenerate_and_not_one():
    found = results(TraceCategory([Fixed(said=["C1"] * 4), Other(said=["C1"] * 4)]))["trace_category.kappa"]
    assert (found.value, found.status) == (None, "degenerate") and "one category" in found.reason


def test_kappa_with_a_judge_that_judged_nothing_is_failed_and_not_zero():
    found = results(TraceCategory([Fixed(said=["C1", "C4"] * 2), Other(said=["INVALID"] * 4)]))["trace_category.kappa"]
    assert (found.value, found.status, found.reason) == (None, "failed", "judge other gave no valid verdict")


def test_verdicts_of_every_item_are_in_the_records(tmp_path):
    metric, role = TraceCategory(), given()
    path = write_items(
        tmp_path / "records.parquet", {"unlearned": {"trace": role}}, {"unlearned": metric.compute({"trace": role})}
    )
    kept = read_values(path).values
    assert [list(kept[f"trace_category.c{number}", "trace"]) for number in (1, 2, 3, 4)] == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]


def test_rows_that_cannot_be_judged_are_left_out_and_counted():
    items = [asked(item("a", **ROW)), asked(item("b")), asked(item("c", prompt="", **ROW))]
    found = by_name(TraceCategory().compute({"trace": answers(items, [" Bern.</think> x", " Bern.", None])}))
    result = found["trace_category.unsafe", "trace"].result("unlearned", seed=0, resamples=100)
    assert (result.value, result.n, result.dropped) == (1.0, 1, 2)
    assert "it has no answer column" in result.reason and "it has no prompt" in result.reason


def test_without_trace_rows_the_numbers_are_absent():
    found = [m.result("unlearned", seed=0, resamples=100) for m in TraceCategory().compute({"forget": given()})]
    assert {(result.value, result.status) for result in found} == {(None, "skipped")} and len(found) == 6


def test_no_rows_at_all_have_no_kappa_and_no_shares():
    found = TraceCategory([Fixed(said=[]), Other(said=[])]).compute({"trace": given([])})
    assert all(m.result("unlearned", seed=0, resamples=100).value is None for m in found)


def test_a_prompt_is_never_part_of_what_is_judged():
    one = asked(item("a", prompt="It is Bern. <think>", **ROW))
    assert case_of(one, " hm</think> Bern").trace == " hm"


def case(row, question="Where?", response=" x"):
    return case_of(asked(item("a", response=response, **row), question), " hm</think> x")


LETTERED = "Where was Ann born?\nA. Rome\nB. Bern\nAnswer:"


@pytest.mark.parametrize(
    ("row", "question", "answer", "options"),
    [
        ({"answer": " Bern "}, "Where?", "Bern", []),
        ({"answer": "Bern", "options": ["Rome", "Bern"]}, "Where?", "Bern", ["Rome", "Bern"]),
        ({"answer": 1, "choices": [" Rome", " Bern"]}, "Where?", "Bern", ["Rome", "Bern"]),
        ({"answer": "B", "choices": [" Rome", " Bern"]}, "Where?", "Bern", ["Rome", "Bern"]),
        ({"answer": 1, "choices": [" A", " B"]}, LETTERED, "Bern", ["Rome", "Bern"]),
        ({"answer": "B"}, LETTERED, "Bern", ["Rome", "Bern"]),
        ({"answer": "Bern", "perturbed": [" Rome", " hm</think> Oslo"]}, "Where?", "Bern", ["Rome", "Oslo", "Bern"]),
    ],
)
def test_answer_and_options_are_read_from_every_form_of_row(row, question, answer, options):
    found = case(row, question)
    assert (found.answer, found.options) == (answer, options)


@pytest.mark.parametrize(
    ("row", "question", "why"),
    [
        ({"answer": 1, "choices": [" A", " B"]}, "Where?", "choices are letters"),
        ({"answer": 1}, "Where?", "neither options nor choices"),
        ({"answer": " "}, "Where?", "no answer column"),
    ],
)
def test_a_row_without_a_right_answer_says_so(row, question, why):
    assert why in case(row, question)


def test_an_answer_that_is_no_option_is_an_error_that_names_the_row():
    with pytest.raises(DataError, match=r"evaluate\.data\.trace row 'a'.*not among"):
        case({"answer": "Lima", "options": ["Rome", "Bern"]})


def test_facts_aliases_and_related_come_along():
    row = {"answer": "Bern", "aliases": ["Berne", 3], "related": ["x."], "statements": ["a."], "needs": [["b."]]}
    assert case(row) == Case("a", "Where?", " hm", "Bern", ["Berne"], [], ["a.", "b."], ["x."], case(row).row)


def test_letters_that_do_not_run_from_a_are_no_list():
    assert listed_options("B. Rome\nC. Bern") == [] and listed_options("no list") == []


def test_the_judges_come_from_the_recipe_and_are_made_ready_before_anything_is_scored(monkeypatch):
    monkeypatch.delenv("JUDGE_TEST_KEY", raising=False)
    data = {"trace": {"path": "t.jsonl"}}
    assert [type(judge) for judge in TraceCategory.of(EvaluateSection(data=data)).judges] == [DeterministicJudge]
    prompt = PromptJudge(url="https://e.org/v1", model="m", key_env="JUDGE_TEST_KEY")
    with pytest.raises(InputError, match="JUDGE_TEST_KEY"):
        TraceCategory.of(EvaluateSection(data=data, judges=[prompt]))


def test_no_judge_and_a_judge_of_another_class_are_refused():
    with pytest.raises(InputError, match=r"evaluate\.judges: is empty"):
        TraceCategory.of(EvaluateSection(data={"trace": {"path": "t.jsonl"}}, judges=[]))
    with pytest.raises(InputError, match="must derive from"):
        TraceCategory.of(SimpleNamespace(judges=[SimpleNamespace(name="odd")]))


def test_a_judge_that_loses_a_case_is_an_error():
    with pytest.raises(RunError, match="gave 3 verdicts for 4 cases"):
        TraceCategory([Fixed(said=["C1"] * 3)]).compute({"trace": given()})
