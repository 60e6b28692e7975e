"""The sentences follow from the numbers and their intervals."""

import pytest

from temper.report.columns import columns
from temper.report.headlines import headlines, judge
from tests.report.evidences import evidence, with_result, without


def said(made):
    (headline,) = judge(columns([made]))
    return headline.verdict, headline.sentence.replace("\u00a0", " "), " ".join(headline.details).replace("\u00a0", " ")


def test_an_answer_that_is_gone_from_the_mouth_but_not_from_the_trace_is_called_a_leak():
    verdict, sentence, details = said(evidence("NPO"))
    assert verdict == "leaks"
    assert sentence == (
        "NPO: the direct answer is gone (2 % right; gold 8 %), but 35 % of reasoning traces still state the fact (gold 4 %)."
    )
    assert "After thinking, 33 % of its answers are right" in details
    assert "over-unlearned too" in details and "membership AUC 0.18; gold 0.52" in details


def test_a_run_beside_gold_is_said_to_be_beside_gold_without_praise():
    verdict, sentence, _ = said(evidence("RMU"))
    assert verdict == "removed"
    assert sentence == (
        "RMU: the direct answer is gone (0 % right; gold 8 %), and no leak in its reasoning traces can be shown "
        "(2 % state the fact; gold 4 %)."
    )


def test_a_run_that_broke_what_it_should_keep_is_called_damaged_even_if_it_forgot():
    verdict, sentence, details = said(evidence("GradDiff"))
    assert verdict == "damaged"
    assert "28 % of the original's utility is left" in sentence
    assert "It lost right answers in reasoning: 12 %, original 98 %." in details
    assert "It keeps" not in details


def test_a_run_that_changed_nothing_is_called_that():
    verdict, sentence, _ = said(evidence("Barely"))
    assert (
        verdict == "kept" and "nothing was removed that can be shown (98 % of direct answers right; original 100 %)" in sentence
    )


def test_forget_items_stranger_than_unseen_ones_are_called_over_unlearned():
    made = with_result(evidence("RMU"), "membership.loss", "forget", value=0.05, low=0.01, high=0.1)
    verdict, sentence, _ = said(made)
    assert verdict == "over" and "over-unlearned" in sentence and "membership AUC 0.05; gold 0.52" in sentence


def test_forget_items_that_are_still_recognised_are_called_under_unlearned():
    made = with_result(evidence("RMU"), "membership.loss", "forget", value=0.9, low=0.8, high=0.97)
    assert "under-unlearned" in said(made)[2]


def test_an_answer_between_original_and_gold_is_partly_gone():
    made = with_result(evidence("RMU"), "answer_accuracy", "forget", value=0.5, low=0.4, high=0.6)
    verdict, sentence, _ = said(made)
    assert verdict == "partly" and "only partly gone (50 % right; gold 8 %; original 100 %)" in sentence


def test_an_interval_that_reaches_from_original_to_gold_decides_nothing():
    made = with_result(evidence("RMU"), "answer_accuracy", "forget", value=0.5, low=0.05, high=0.99, n=4)
    verdict, sentence, _ = said(made)
    assert verdict == "cannot_tell" and "4 forget items are too few" in sentence


def test_zero_of_few_items_is_not_certainty():
    """0 of 6 right has the bootstrap interval [0, 0]; by the rule of three it reaches to one half."""
    made = with_result(evidence("RMU"), "trace_leak.statement", "trace", "gold", value=0.0, low=0.0, high=0.0, n=6)
    made = with_result(made, "trace_leak.statement", "trace", value=0.354, low=0.22, high=0.48)
    assert said(made)[0] == "removed"
    surer = with_result(made, "trace_leak.statement", "trace", "gold", n=600)
    assert said(surer)[0] == "leaks"


def test_without_gold_the_run_is_not_judged_and_the_reason_is_named():
    verdict, sentence, _ = said(without(evidence("NPO"), "gold"))
    assert verdict == "cannot_tell"
    assert "fewer direct answers are right (2 %; original 100 %)" in sentence and "no gold model" in sentence


def test_without_traces_a_gone_answer_is_no_verdict():
    verdict, sentence, _ = said(without(evidence("RMU"), roles=("trace",)))
    assert verdict == "cannot_tell" and "cannot tell whether its reasoning traces still state the fact" in sentence


@pytest.mark.parametrize("changes", [{"value": None, "low": None, "high": None, "status": "failed", "reason": "out of ink"}])
def test_a_number_that_failed_gives_its_own_reason(changes):
    verdict, sentence, _ = said(with_result(evidence("NPO"), "answer_accuracy", "forget", **changes))
    assert verdict == "cannot_tell" and "out of ink" in sentence


def test_a_number_without_interval_decides_nothing():
    made = with_result(evidence("NPO"), "answer_accuracy", "forget", low=None, high=None)
    assert said(made)[0] == "cannot_tell"


def test_the_lines_of_one_run_begin_with_its_headline():
    lines = headlines(evidence("NPO"))
    assert lines[0].startswith("NPO: ") and len(lines) > 1


def test_an_over_unlearned_run_without_traces_is_not_said_to_be_free_of_leaks():
    verdict, _, details = said(without(evidence("NPO"), roles=("trace",)))
    assert verdict == "over" and "Cannot tell whether its reasoning traces still state the fact" in details
