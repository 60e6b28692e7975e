import numpy as np
import pytest

from temper.assess.compare import compare
from temper.assess.itemtable import read_values, write_items
from temper.assess.measure import per_item
from temper.errors import DataError, InputError
from tests.assess.builders import answers, item


def run_folder(tmp_path, name, values, names=None):
    items = [item(one) for one in names or [f"r{n}" for n in range(len(values))]]
    (tmp_path / name).mkdir()
    measure = per_item("probability", "forget", "lower", values)
    write_items(tmp_path / name / "records.parquet", {"unlearned": {"forget": answers(items)}}, {"unlearned": [measure]})
    return tmp_path / name


def test_a_constant_difference_is_certain_although_the_runs_spread_widely(tmp_path):
    values = np.linspace(0.1, 0.8, 20)
    one, other = run_folder(tmp_path, "a", list(values + 0.1)), run_folder(tmp_path, "b", list(values))
    (row,) = compare([one, other])
    assert (row.metric, row.role, row.first, row.second, row.n, row.dropped) == ("probability", "forget", "a", "b", 20, 0)
    assert (row.difference, row.low, row.high) == pytest.approx((0.1, 0.1, 0.1)) and row.is_clear


def test_runs_that_do_not_differ_are_not_told_apart(tmp_path):
    values = [0.1, 0.9, 0.4, 0.6]
    (row,) = compare([run_folder(tmp_path, "a", values), run_folder(tmp_path, "b", values[::-1])])
    assert row.difference == pytest.approx(0.0) and not row.is_clear


def test_an_item_that_one_run_could_not_score_is_left_out_of_both(tmp_path):
    (row,) = compare([run_folder(tmp_path, "a", [0.5, None, 0.9]), run_folder(tmp_path, "b", [0.1, 0.2, 0.5])])
    assert (row.n, row.dropped) == (2, 1) and row.difference == pytest.approx(0.4)


def test_runs_on_different_items_are_refused(tmp_path):
    one, other = run_folder(tmp_path, "a", [0.1, 0.2]), run_folder(tmp_path, "b", [0.1, 0.2], names=["r0", "r9"])
    with pytest.raises(DataError, match="different items.*forget"):
        compare([one, other])


def test_every_two_of_three_runs_are_compared(tmp_path):
    folders = [run_folder(tmp_path, name, [0.1, 0.3]) for name in "abc"]
    assert [(row.first, row.second) for row in compare(folders)] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_one_run_is_no_comparison(tmp_path):
    with pytest.raises(InputError, match="at least two"):
        compare([run_folder(tmp_path, "a", [0.1])])


def test_a_run_without_records_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        compare([tmp_path / "x", tmp_path / "y"])


def test_only_the_wanted_numbers_are_compared(tmp_path):
    folders = [run_folder(tmp_path, name, [0.1, 0.3]) for name in "ab"]
    assert compare(folders, metrics=["rouge.l_recall"]) == []


def test_a_model_that_was_not_scored_is_named(tmp_path):
    folder = run_folder(tmp_path, "a", [0.1])
    with pytest.raises(DataError, match="no records of the gold model"):
        read_values(folder / "records.parquet", "gold")


def test_the_same_run_twice_is_no_comparison(tmp_path):
    folder = run_folder(tmp_path, "a", [0.1, 0.3])
    with pytest.raises(InputError, match="more than once"):
        compare([folder, tmp_path / "." / "a"])
