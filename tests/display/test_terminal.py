"""The table on the terminal."""

from temper.display.terminal import columns_of, print_evidence, table_rows
from tests.report.evidences import evidence, without


def test_it_has_a_row_for_original_gold_and_each_run(capsys):
    print_evidence([evidence("GradDiff"), evidence("NPO")])
    out = capsys.readouterr()
    rows = out.out.split("─\n")[-1].splitlines()
    assert [line.split()[0] for line in rows if line.strip()] == ["original", "gold", "GradDiff", "NPO"]
    npo = next(line for line in out.out.splitlines() if line.startswith("NPO"))
    assert " ".join(npo.split()) == "NPO 2 % 33 % 35 % 97 % 93 % 0.18 0.94 14 s"
    assert out.err == ""


def test_what_is_not_known_is_a_question_mark_with_its_reason_below(capsys):
    print_evidence([without(evidence("NPO"), "gold", roles=("trace",))])
    out = capsys.readouterr().out
    assert "? gold: cannot tell, was not given" in out
    assert "? NPO, trace states fact: cannot tell, was not measured" in out


def test_it_fits_a_terminal_of_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_evidence([evidence("GradDiff").model_copy(update={"name": "graddiff-tiny"}), evidence("NPO")])
    out = capsys.readouterr().out
    assert "graddiff-tiny" in out and "thought" in out and "utility" in out


def test_no_cell_is_blank():
    rows, _ = table_rows([without(evidence("NPO"), "gold", "original", roles=("all",))])
    assert all(cell.strip() for row in rows for cell in row)


def test_names_are_not_read_as_commands_to_the_terminal(capsys):
    print_evidence([evidence("NPO").model_copy(update={"name": "[red]x\x1b[2J"})])
    out = capsys.readouterr().out
    assert "[red]x␛[2J" in out and "\x1b" not in out


def test_the_health_of_kept_traces_stands_in_the_place_of_membership_where_it_was_measured():
    plain = evidence("NPO")
    health = plain.find("membership.loss", "forget").model_copy(update={"metric": "trace_health.healthy", "role": "retain_trace"})
    known = plain.model_copy(update={"results": [*plain.results, health]})
    assert [column[1] for column in columns_of([plain])].count("membership.loss") == 1
    assert [column[1] for column in columns_of([plain, known])].count("membership.loss") == 0
    assert len(columns_of([plain])) == len(columns_of([known])) == 7
