import numpy as np
import pyarrow.parquet as pq
import pytest

from temper.assess.itemtable import read_values, write_items
from temper.assess.measure import per_item
from temper.assess.packs import write_table
from temper.errors import DataError
from tests.assess.builders import answers, item, record


@pytest.fixture
def path(tmp_path):
    rows = {
        "forget": answers([item("a"), item("b")], [" x", None], [record([-1.0, -2.0], name="a"), record([np.nan], name="b")]),
        "general": answers([item("a")], [" y"]),
    }
    measures = [per_item("m", "forget", "lower", [0.1, None]), per_item("m", "general", "higher", [0.7])]
    gold = [per_item("m", "forget", "lower", [0.3, 0.4])]
    return write_items(tmp_path / "records.parquet", {"unlearned": rows, "gold": rows}, {"unlearned": measures, "gold": gold})


def test_values_come_back_by_metric_and_role_with_nan_where_there_is_none(path):
    found = read_values(path)
    assert set(found.values) == {("m", "forget"), ("m", "general")} and set(found.items) == {"forget", "general"}
    np.testing.assert_array_equal(found.values["m", "forget"], [0.1, np.nan])
    np.testing.assert_array_equal(found.values["m", "general"], [0.7])


def test_models_are_kept_apart(path):
    np.testing.assert_array_equal(read_values(path, "gold").values["m", "forget"], [0.3, 0.4])


def test_any_parquet_reader_finds_records_continuations_and_failures(path):
    rows = pq.read_table(path).to_pylist()
    assert [(row["model"], row["role"], row["id"]) for row in rows][:3] == [
        ("unlearned", "forget", "a"),
        ("unlearned", "forget", "b"),
        ("unlearned", "general", "a"),
    ]
    assert rows[0]["logp"] == [-1.0, -2.0] and rows[0]["generation"] == " x" and rows[1]["generation"] is None
    assert [row["failed"] for row in rows[:3]] == [False, True, False]


def test_a_table_of_another_form_is_refused(path, tmp_path):
    table = pq.read_table(path).replace_schema_metadata({"temper": '{"format": "temper/records/9"}'})
    with pytest.raises(DataError, match="records/9"):
        read_values(write_table(tmp_path / "other.parquet", table))


def test_a_table_without_facts_is_refused(path, tmp_path):
    with pytest.raises(DataError, match="not a table of this library"):
        read_values(write_table(tmp_path / "bare.parquet", pq.read_table(path).replace_schema_metadata({})))
