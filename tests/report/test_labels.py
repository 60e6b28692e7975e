"""Every number that an assessment can give has a label, a unit and a meaning."""

import pytest

from temper import assess, registry
from temper.recipe import dump, from_dict
from temper.report.columns import columns, number_names
from temper.report.metrics import METRICS, describe, order, section
from temper.report.tables import numbers_table
from tests.assess.builders import recipe_document, write_models, write_people
from tests.report.evidences import evidence


def test_every_number_of_an_assessment_with_all_modes_and_probes_is_described(tmp_path, make_llama):
    write_models(tmp_path, make_llama)
    document = recipe_document(tmp_path, roles=("forget", "trace", "holdout"))
    for role in ("forget", "trace"):
        write_people(tmp_path / f"{role}.jsonl", thinks=role == "trace")
    probes = [{"relearning": {"steps": 1, "batch_size": 2}}, "trace_prefill"]
    document["evaluate"] |= {"decoding": list(registry.names("decoding")), "probes": probes}
    (tmp_path / "recipe.yaml").write_text(dump(from_dict(document)))
    found = assess.run(assess.given(str(tmp_path / "recipe.yaml"), [], tmp_path / "run"))
    names = {result.metric for result in found.results}
    assert {name.partition(".")[0].partition("@")[0] for name in names} >= {
        "relearning",
        "trace_prefill",
        "answer_accuracy",
        "rouge",
    }
    assert any("@" in name for name in names)
    unknown = sorted(name for name in names if not describe(name).says)
    assert unknown == []


@pytest.mark.parametrize(
    ("metric", "unit", "words"),
    [
        ("relearning.before_lenient", "share", "right before relearning"),
        ("relearning.after_lenient", "share", "right after relearning"),
        ("trace_category.prompt.unsafe", "share", "by prompt"),
        ("trace_category.my.judge.invalid", "share", "by my.judge"),
        ("trace_category.kappa", "score", "kappa"),
        ("trace_category.prompt.unsafe@zero_thinking", "share", "zero thinking"),
        ("trace_leak.statement@less_thinking", "share", "answer states the fact (less thinking)"),
        ("membership.loss.tpr_at_1", "share", "false alarms"),
    ],
)
def test_a_name_that_is_made_of_others_is_described(metric, unit, words):
    found = describe(metric)
    assert found.unit == unit and words in found.label and found.says


def test_a_plug_in_metric_keeps_its_name():
    assert describe("mine.own").label == "mine.own" and describe("mine.own@zero_thinking").label == "mine.own (zero thinking)"


def test_modes_and_probes_stand_below_the_default_numbers_in_sections_of_their_own():
    names = ["answer_accuracy@zero_thinking", "relearning.after", "utility", "answer_accuracy", "trace_category.x.unsafe"]
    ordered = sorted(names, key=lambda name: order(name, "trace"))
    assert [section(name) for name in ordered] == ["", "", "", "under attack", "with zero thinking"]
    assert ordered.index("trace_category.x.unsafe") < ordered.index("utility")
    plain = evidence("NPO")
    more = plain.results[0].model_copy(update={"metric": "relearning.after"})
    models = columns([plain.model_copy(update={"results": [*plain.results, more]})])
    heads = [row.head.text for row in numbers_table(models, number_names([models.runs[0].evidence])).rows if not row.cells]
    assert heads[-1].endswith("under attack") and heads.count(heads[-1]) == 1


def test_labels_differ():
    labels = [metric.label for metric in METRICS.values()]
    assert len(set(labels)) == len(labels)
