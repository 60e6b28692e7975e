"""Comparisons: only against the same original and gold, and through the folders of runs."""

import json

import pyarrow as pa
import pytest

from temper import report
from temper.assess.evidence import Evidence
from temper.assess.itemtable import ITEM_TABLE
from temper.assess.packs import write_table
from temper.errors import DataError, InputError
from temper.report.compare import write_comparison
from temper.report.document import REPORT_SCHEMA, Document
from tests.report.evidences import evidence, with_result, without
from tests.report.pages import Seen


def other_weights(made, which):
    facts = made.models[which].model_copy(update={"weights_hash": "e" * 64})
    return made.model_copy(update={"models": {**made.models, which: facts}})


@pytest.mark.parametrize("which", ["original", "gold"])
def test_runs_against_different_models_are_refused_by_name(which, tmp_path):
    with pytest.raises(DataError, match=f"different {which} models .*NPO.*RMU.*eeeeeeeeeeee"):
        write_comparison([evidence("NPO"), other_weights(evidence("RMU"), which)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_compare_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no evidence was given"):
        write_comparison([], tmp_path)


def test_gold_known_to_one_run_serves_all(tmp_path):
    page = write_comparison([without(evidence("NPO"), "gold"), evidence("RMU")], tmp_path).read_text()
    assert "but 35" in Seen(page).text


def test_other_numbers_of_items_are_pointed_out(tmp_path):
    few = with_result(evidence("RMU"), "answer_accuracy", "neighbour", n=12)
    text = Seen(write_comparison([evidence("NPO"), few], tmp_path).read_text()).text
    assert "NPO and RMU were judged on different numbers of items for neighbour" in text


def write_records(folder, items):
    """Write the records of a run that was judged on the items of this hash."""
    table = pa.table({"model": ["unlearned"], "role": ["forget"], "values": pa.array([[]], pa.map_(pa.string(), pa.float64()))})
    facts = {"format": ITEM_TABLE, "items": {"forget": items}}
    write_table(folder / "records.parquet", table.replace_schema_metadata({"temper": json.dumps(facts)}))


def test_runs_that_were_judged_on_other_items_are_refused(tmp_path):
    for name, items in (("NPO", "aaaa"), ("RMU", "bbbb")):
        evidence(name).write(tmp_path / name / "evidence.json")
        write_records(tmp_path / name, items)
    with pytest.raises(DataError, match="NPO and RMU were judged on different items"):
        report.compare([tmp_path / "NPO", tmp_path / "RMU"], tmp_path / "both")


def test_one_run_is_no_comparison(tmp_path):
    evidence("NPO").write(tmp_path / "NPO" / "evidence.json")
    with pytest.raises(InputError, match="at least two"):
        report.compare([tmp_path / "NPO"], tmp_path / "both")


def test_a_comparison_does_not_write_over_a_run_or_among_foreign_files(tmp_path):
    for name in ("NPO", "RMU"):
        evidence(name).write(tmp_path / name / "evidence.json")
        write_records(tmp_path / name, "aaaa")
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "NPO", tmp_path / "file", tmp_path):
        with pytest.raises(InputError, match="--out"):
            report.compare([tmp_path / "NPO", tmp_path / "RMU"], out)


def test_the_title_of_the_recipe_heads_the_report_of_its_run(tmp_path):
    evidence("NPO").write(tmp_path / "evidence.json")
    (tmp_path / "recipe.yaml").write_text("model: {path: m}\nreport: {title: What is left}\n")
    assert "<h1>What is left</h1>" in report.run(tmp_path).read_text()


def test_a_run_folder_gets_its_report_and_folders_their_comparison_twice_over(tmp_path):
    for name in ("NPO", "RMU"):
        evidence(name).write(tmp_path / name / "evidence.json")
        write_records(tmp_path / name, "aaaa")
        assert report.run(tmp_path / name) == tmp_path / name / "report.html"
    for _ in range(2):  # the module temper.report.compare must not take the place of the function
        page = report.compare([tmp_path / "NPO", tmp_path / "RMU"], tmp_path / "both", title="Two ways")
    assert page == tmp_path / "both" / "report.html"
    assert "<h1>Two ways</h1>" in page.read_text()
    assert sorted(p.name for p in page.parent.iterdir()) == [
        "answer_against_trace.svg",
        "report.html",
        "report.json",
        "report.md",
    ]


def test_a_folder_without_evidence_is_named(tmp_path):
    with pytest.raises(DataError, match="evidence.json: no such file"):
        report.run(tmp_path)


def test_the_json_is_a_document_and_gives_the_evidence_back(tmp_path):
    given = [evidence("NPO"), evidence("RMU")]
    write_comparison(given, tmp_path)
    document = Document.model_validate_json((tmp_path / "report.json").read_text())
    assert document.schema_name == REPORT_SCHEMA
    assert document.evidence == given and isinstance(document.evidence[0], Evidence)
    assert [h.verdict for h in document.headlines] == ["leaks", "removed"]
    assert [p.name for p in document.positions] == ["original", "gold", "NPO", "RMU"]


def test_thirty_runs_can_be_compared(tmp_path):
    page = write_comparison([evidence("NPO", seed=seed, with_examples=False) for seed in range(30)], tmp_path).read_text()
    assert "NPO (seed 29)" in page
