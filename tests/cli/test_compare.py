"""`temper compare` on evidence made by hand."""

from typer.testing import CliRunner

from temper.assess.itemtable import write_items
from temper.assess.measure import per_item
from temper.cli.app import app
from tests.assess.builders import answers, item
from tests.report.evidences import evidence


def run_folder(folder, made):
    folder.mkdir()
    made.write(folder / "evidence.json")
    measure = per_item("probability", "forget", "lower", [0.1, 0.3])
    items = [item("a"), item("b")]
    write_items(folder / "records.parquet", {"unlearned": {"forget": answers(items)}}, {"unlearned": [measure]})
    return str(folder)


def compared(tmp_path, *folders):
    return CliRunner().invoke(app, ["compare", *folders, "--out", str(tmp_path / "out")])


def test_runs_of_one_name_are_told_apart_on_the_terminal(tmp_path):
    found = compared(tmp_path, *(run_folder(tmp_path / name, evidence("NPO")) for name in "ab"))
    assert found.exit_code == 0 and "NPO (seed 0) #1" in found.stdout and "NPO (seed 0) #2" in found.stdout


def test_runs_that_were_judged_differently_are_compared_with_a_warning(tmp_path):
    settings = {"judges": [{"name": "deterministic"}]}
    other = {"judges": [{"name": "prompt", "model": "m"}]}
    folders = [
        run_folder(tmp_path / "a", evidence("NPO", settings=settings)),
        run_folder(tmp_path / "b", evidence("RMU", settings=other)),
    ]
    found = compared(tmp_path, *folders)
    assert found.exit_code == 0 and "warning: NPO and RMU were judged with different settings" in found.stderr
    assert "different settings" in (tmp_path / "out" / "report.html").read_text()


def test_a_folder_that_is_given_twice_is_refused(tmp_path):
    folder = run_folder(tmp_path / "a", evidence("NPO"))
    found = compared(tmp_path, folder, folder)
    assert found.exit_code == 2 and "more than once" in found.stderr and not (tmp_path / "out").exists()


def test_what_was_measured_beside_the_table_is_printed_below_it(tmp_path):
    made = evidence("NPO")
    like = made.find("answer_accuracy", "forget")
    values = {"relearning.before": (0.0, 0.0, 0.1), "relearning.after": (0.6, 0.5, 0.7)}
    more = [
        like.model_copy(update={"metric": metric, "value": value, "low": low, "high": high})
        for metric, (value, low, high) in values.items()
    ]
    probed = made.model_copy(update={"results": [*made.results, *more]})
    found = compared(tmp_path, run_folder(tmp_path / "a", probed), run_folder(tmp_path / "b", evidence("RMU")))
    table, line = found.stdout.split("NPO: Fine-tuning")
    assert "RMU" in table and line.replace("\u00a0", " ").startswith(
        " on half of the forgotten facts brings back the others: 60 %"
    )
