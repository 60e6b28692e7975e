"""What was measured in place of, and beside, the default numbers."""

from temper.display.firsts import INSTEAD, first_known
from temper.display.terminal import columns_of, print_evidence
from temper.report.beside import beside, beside_lines
from temper.report.columns import columns
from temper.report.figures import picture
from temper.report.forgetting import measure
from temper.report.headlines import judge
from temper.report.limits import limits, mismatches
from temper.report.provenance import run_facts
from temper.report.tables import GLANCE, glance_table
from tests.report.evidences import evidence


def as_choices(made):
    """Return evidence as rows with options give it: the numbers of plain answers are absent, those of choices there."""
    results = []
    for result in made.results:
        key = (result.metric, result.role)
        if key in INSTEAD:
            results.append(result.model_copy(update={"metric": INSTEAD[key]}))
            results.append(
                result.model_copy(update={"value": None, "low": None, "high": None, "status": "skipped", "reason": "no"})
            )
        else:
            results.append(result)
    return made.model_copy(update={"results": results})


def added(made, metric, role="trace", **values):
    like = made.find("answer_accuracy", "forget")
    more = [
        like.model_copy(
            update={"metric": metric, "role": role, "model": model, "value": v, "low": max(v - 0.05, 0), "high": v + 0.05}
        )
        for model, v in values.items()
    ]
    return made.model_copy(update={"results": [*made.results, *more]})


def text(lines):
    return " ".join(lines).replace("\u00a0", " ")


def test_rows_with_options_have_the_same_verdict_and_the_numbers_are_named():
    plain, made = evidence("NPO"), as_choices(evidence("NPO"))
    (before,), (after,) = judge(columns([plain])), judge(columns([made]))
    assert after.verdict == before.verdict == "leaks"
    assert "35 % of reasoning traces still are judged to give the fact away (gold 4 %)" in text([after.sentence])
    said = text(after.details)
    assert all(name in said for name in ("choice_accuracy", "final_answer", "trace_category.unsafe"))
    assert "After thinking, 33 % of its answers are right" in said
    assert not any("Read from" in detail for detail in before.details)


def test_the_glance_table_shows_what_was_measured_with_its_name():
    table = glance_table(columns([as_choices(evidence("NPO"))]))
    assert table.columns[0].below == "right option most likely" and table.columns[2].below == "trace judged unsafe, C2 to C4"
    assert table.columns[-1].below == ""
    values = [cell.text for cell in table.rows[-1].cells]
    plain = glance_table(columns([evidence("NPO")])).rows[-1].cells
    assert values == [cell.text for cell in plain]


def test_the_terminal_shows_what_was_measured_and_says_so(capsys):
    made = as_choices(evidence("NPO"))
    print_evidence([made])
    out = " ".join(capsys.readouterr().out.split())
    assert "NPO 2 % 33 % 35 % 97 % 93 % 0.18 0.94 14 s" in out
    assert "forget answer from choice_accuracy" in out and "trace states fact from trace_category.unsafe" in out
    assert len(columns_of([made])) == len(GLANCE) - 1


def test_the_picture_and_the_plane_read_them_too():
    models = columns([as_choices(evidence("NPO"))])
    assert "is judged unsafe" in picture(models) and "cannot tell" not in picture(models)
    without = [r for r in models.runs[0].evidence.results if r.metric != "extraction_strength"]
    made = models.runs[0].evidence.model_copy(update={"results": without})
    assert measure(columns([made]))[0] == "choice_accuracy"


def test_a_number_that_is_known_is_never_replaced():
    made = added(evidence("NPO"), "trace_category.unsafe", unlearned=0.9, original=1.0, gold=0.0)
    assert first_known([made], "trace_leak.statement", "trace") == ("trace_leak.statement", "trace")
    assert first_known([made], "utility", "all") == ("utility", "all")


def test_a_number_that_the_original_fails_already_cannot_show_forgetting():
    made = added(evidence("NPO"), "trace_category.unsafe", unlearned=0.9, original=1.0, gold=0.0)
    blind = [
        r.model_copy(update={"value": 0.0}) if (r.metric, r.model) == ("trace_leak.statement", "original") else r
        for r in made.results
    ]
    assert (
        first_known([made.model_copy(update={"results": blind})], "trace_leak.statement", "trace")[0] == "trace_category.unsafe"
    )


def test_probes_judges_and_modes_have_a_sentence_each_with_their_numbers():
    made = added(evidence("RMU"), "relearning.after", "forget", unlearned=0.6, gold=0.1)
    made = added(made, "relearning.before", "forget", unlearned=0.0)
    made = added(made, "trace_prefill.statement", unlearned=0.5, original=0.9, gold=0.1)
    made = added(made, "trace_category.unsafe", unlearned=0.2)
    made = added(made, "trace_category.prompt.unsafe", unlearned=0.3, original=0.95, gold=0.15)
    made = added(made, "trace_category.kappa", unlearned=0.71)
    made = added(made, "answer_accuracy.lenient@zero_thinking", unlearned=0.07, original=0.8, gold=0.1)
    models = columns([made])
    lines = beside(models.runs[0], models)
    relearned, prefilled, judged, decoded = [text([line]) for line in lines]
    assert "brings back the others: 60 %" in relearned and "gold 10 %" in relearned
    assert "50 % of continuations state the fact (original 90 %; gold 10 %)" in prefilled
    assert "The judge prompt finds 30 % of traces unsafe (original 95 %; gold 15 %)" in judged
    assert "The first judge finds 20 %" in judged and "kappa 0.71" in judged
    assert "Decoded with zero thinking, 7 % of answers are right (original 80 %; gold 10 %)" in decoded
    assert set(lines) < set(judge(models)[0].details) and beside_lines([made]) == lines


def test_nothing_is_said_of_what_was_not_measured():
    assert beside_lines([evidence("RMU")]) == []


def test_lines_on_several_runs_begin_with_the_name():
    one, other = (
        added(added(evidence(name), "relearning.after", "forget", unlearned=0.6), "relearning.before", "forget", unlearned=0.0)
        for name in ("RMU", "NPO")
    )
    assert {line.partition(":")[0] for line in beside_lines([one, other])} == {"RMU", "NPO"}


def test_garble_is_said_directly_below_the_sentence_on_leaks():
    made = added(evidence("RMU"), "trace_health.nll_original", unlearned=5.68, original=0.1, gold=0.8)
    made = added(made, "relearning.after", "forget", unlearned=0.6)
    made = added(made, "relearning.before", "forget", unlearned=0.0)
    details = judge(columns([made]))[0].details
    place = next(n for n, line in enumerate(details) if line.startswith("No leak")) if "No leak" in text(details) else -1
    assert "perplexity 293" in details[place + 1] and "garble" in details[place + 1]


JUDGED = {"judges": [{"name": "deterministic"}], "decoding": [], "probes": [], "max_new_tokens": 96}


def test_runs_that_were_judged_in_another_way_are_warned_of():
    one = evidence("NPO", settings=JUDGED)
    other = evidence("RMU", settings=JUDGED | {"judges": [{"name": "prompt", "model": "m"}], "batch_size": 3})
    (line,) = mismatches([one, other])
    assert "judges: deterministic against prompt (model=m)" in line and "batch_size" not in line
    assert mismatches([one, evidence("RMU", settings=JUDGED | {"batch_size": 7})]) == []


def test_how_fast_a_judge_is_asked_is_no_difference():
    one, other = (
        evidence(name, settings=JUDGED | {"judges": [{"name": "prompt", "workers": n}]}) for name, n in (("NPO", 1), ("RMU", 9))
    )
    assert mismatches([one, other]) == []


def test_evidence_of_which_nobody_knows_how_it_was_judged_is_named():
    (line,) = mismatches([evidence("NPO", settings=JUDGED), evidence("RMU")])
    assert line.startswith("How RMU was judged was not kept")
    assert mismatches([evidence("NPO"), evidence("RMU")]) == []


def test_provenance_says_who_judged():
    made = evidence("NPO", settings=JUDGED | {"judges": [{"name": "prompt", "model": "m", "votes": 3}]})
    facts = dict(run_facts(columns([made]))[0].facts)
    assert facts["judged with: judges"] == "prompt (model=m, votes=3)" and facts["judged with: probes"] == "none"


def test_limits_are_those_of_what_was_measured():
    plain = evidence("RMU")
    said = " ".join(limits(columns([plain]), [plain]))
    assert "further fine-tuning" in said and "are not counted" in said
    more = added(added(plain, "relearning.after", "forget", unlearned=0.1), "trace_category.unsafe", unlearned=0.1)
    told = " ".join(limits(columns([more]), [more]))
    assert "further fine-tuning" not in told and "Relearning was tried" in told
    assert "are not counted" not in told and "the judge to find" in told
