import errno
import os

import pytest

from temper import files
from temper.errors import DataError, DiskFull


def test_a_failed_write_leaves_the_old_file_and_nothing_aside(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    files.write_json(target, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"a\.json: no space left.*it resumes"):
        files.write_json(target, {"a": 2})
    assert files.read_json(target) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), files.folder_aside(tmp_path / "model") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_replaced_folder_is_the_new_one_entirely(tmp_path):
    for name in ("old", "new"):
        with files.folder_aside(tmp_path / "model") as folder:
            (folder / name).write_text("x")
    assert [item.name for item in (tmp_path / "model").iterdir()] == ["new"]
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="leaves the folder"):
        files.inside(tmp_path, name)


def test_a_link_that_leaves_its_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leaves the folder"):
        files.inside(tmp_path / "in", "link/x")


def test_hashes_of_json_ignore_key_order():
    assert files.hash_json({"a": 1, "b": 2}) == files.hash_json({"b": 2, "a": 1})


def test_missing_and_broken_json_name_the_file(tmp_path):
    with pytest.raises(DataError, match="nothing.json: no such file"):
        files.read_json(tmp_path / "nothing.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DataError, match=r"b\.json: not valid JSON"):
        files.read_json(tmp_path / "b.json")


def test_an_event_after_a_torn_line_is_a_line_of_its_own(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"torn": 12')
    files.append_line(tmp_path / "log.jsonl", {"b": 2})
    assert (tmp_path / "log.jsonl").read_text().splitlines() == ['{"torn": 12', '{"b": 2}']
