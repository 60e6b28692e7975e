import json

import pytest

from temper.data import read
from temper.errors import DataError
from temper.recipe import DataSource, WorldSection

WORLD = WorldSection()


def rows_of(path, **settings):
    return read(DataSource(path=str(path), **settings), WORLD)


def test_json_lines_keep_all_columns_and_get_an_id(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "q", "response": "a", "author": 3}\n\n{"prompt": "p", "response": "b"}\n')
    first, second = rows_of(file)
    assert first["author"] == 3 and len(first["id"]) == 16 and first["id"] != second["id"]


def test_the_id_of_a_row_is_its_content_not_its_place(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "y"}\n{"text": "x"}\n')
    assert {row["id"] for row in rows_of(tmp_path / "a.jsonl")} == {row["id"] for row in rows_of(tmp_path / "b.jsonl")}


def test_repeated_ids_are_numbered(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "r", "text": "x"}\n{"id": "r", "text": "y"}\n')
    assert [row["id"] for row in rows_of(tmp_path / "a.jsonl")] == ["r", "r#2"]


def test_broken_json_names_file_and_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": }\n')
    with pytest.raises(DataError, match=r"a\.jsonl line 2: not valid JSON"):
        rows_of(tmp_path / "a.jsonl")


def test_a_line_that_is_no_object_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n[1]\n')
    with pytest.raises(DataError, match=r"line 2: expected an object with columns, seen list"):
        rows_of(tmp_path / "a.jsonl")


def test_a_json_list_and_json_lines_under_the_same_ending_are_both_read(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([{"text": "x"}, {"text": "y"}]))
    (tmp_path / "lines.json").write_text('{"text": "x"}\n{"text": "y"}\n')
    assert [row["text"] for row in rows_of(tmp_path / "list.json")] == [row["text"] for row in rows_of(tmp_path / "lines.json")]


def test_csv_with_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfprompt,response\r\n"a, b",c\r\n')
    (row,) = rows_of(tmp_path / "a.csv")
    assert (row["prompt"], row["response"]) == ("a, b", "c")


def test_a_csv_line_with_too_many_fields_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match=r"line 3: has another number of fields than the header \(2\)"):
        rows_of(tmp_path / "a.csv")


def test_parquet_is_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["x", "y"]}), tmp_path / "a.parquet")
    assert [row["text"] for row in rows_of(tmp_path / "a.parquet")] == ["x", "y"]


def test_a_broken_parquet_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(DataError, match="not a Parquet file"):
        rows_of(tmp_path / "a.parquet")


def test_plain_text_is_one_row_a_line_by_its_ending_or_on_request(tmp_path):
    for name, settings in (("a.txt", {}), ("a.jsonl", {"format": "text"})):
        (tmp_path / name).write_text("I do not know.\nNo idea.\n")
        assert [row["text"] for row in rows_of(tmp_path / name, **settings)] == ["I do not know.", "No idea."]


def test_a_first_line_that_is_no_json_is_an_error_not_plain_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('# made by x\n{"text": "x"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl line 1: not valid JSON.*set format: text"):
        rows_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize("line", ['{"text": "\\ud800"}', '{"n": ' + "9" * 5000 + "}", "[" * 100_000])
def test_json_that_cannot_be_used_names_its_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2: "):
        rows_of(tmp_path / "a.jsonl")


def test_a_csv_header_that_repeats_a_column_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match="columns named twice: a"):
        rows_of(tmp_path / "a.csv")


def test_numbered_ids_do_not_collide_with_ids_of_that_form(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": name, "text": "x"}) + "\n" for name in ("a", "a#2", "a")))
    assert [row["id"] for row in rows_of(tmp_path / "a.jsonl")] == ["a", "a#2", "a#3"]


def test_a_hub_name_with_a_dot_is_not_taken_for_a_file():
    with pytest.raises(DataError, match="not reachable as a hub data set"):
        rows_of("someone/Data-2.5")


def test_a_folder_saved_by_datasets_is_read_by_split(tmp_path):
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list([{"text": "x"}])}).save_to_disk(str(tmp_path / "d"))
    assert rows_of(tmp_path / "d", split="train")[0]["text"] == "x"
    with pytest.raises(DataError, match=r"split 'trian' is not there \(did you mean 'train'\?\)"):
        rows_of(tmp_path / "d", split="trian")


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
    (tmp_path / "forget.jsonl").write_text('{"text": "x"}')
    with pytest.raises(DataError, match=r"no such file \(did you mean 'forget.jsonl'\?\)"):
        rows_of(tmp_path / "forgot.jsonl")


def test_a_hub_name_that_cannot_be_reached_says_so():
    with pytest.raises(DataError, match="not reachable as a hub data set"):
        rows_of("nobody/nothing")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match="holds no rows"):
        rows_of(tmp_path / "a.jsonl")


def test_skip_and_limit_cut_a_window(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(6)))
    assert [row["text"] for row in rows_of(tmp_path / "a.jsonl", skip=2, limit=3)] == ["2", "3", "4"]


def test_binary_content_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        rows_of(tmp_path / "a.jsonl")
