import math

import numpy as np
import pytest

from temper.assess.packs import Pack, items_hash, pack_key, pack_path, read_pack, write_pack
from temper.errors import DataError
from tests.assess.builders import item, record

RECORDS = [
    record(
        [-1.25, -math.inf, math.nan],
        mu=[-2.0, -3.0, math.nan],
        var=[0.5, 0.0, 1e-9],
        hit=[True, False, True],
        eos_last=True,
        name="a",
    ),
    record([], name="b"),
    record([-0.1], name="c"),
]
PACK = Pack("k1", 123, RECORDS, [" x</think> y", None, ""])


def test_a_pack_comes_back_bit_for_bit(tmp_path):
    path = write_pack(tmp_path / "p.parquet", PACK)
    found = read_pack(path, "k1", ["a", "b", "c"])
    assert (found.parameters, found.generations) == (123, PACK.generations)
    for one, other in zip(found.records, RECORDS, strict=True):
        for name in ("logp", "mu", "var", "hit", "token", "is_eos"):
            a, b = getattr(one, name), getattr(other, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_an_empty_pack_comes_back(tmp_path):
    path = write_pack(tmp_path / "p.parquet", Pack("k", 1, [], []))
    assert read_pack(path, "k", []).records == []


@pytest.mark.parametrize(("key", "ids"), [("k2", ["a", "b", "c"]), ("k1", ["a", "c", "b"]), ("k1", ["a", "b"])])
def test_a_pack_of_other_scores_or_items_is_refused(tmp_path, key, ids):
    path = write_pack(tmp_path / "p.parquet", PACK)
    with pytest.raises(DataError, match="pack of other scores|other items"):
        read_pack(path, key, ids)


def test_a_torn_file_is_refused(tmp_path):
    path = write_pack(tmp_path / "p.parquet", PACK)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a table of this library"):
        read_pack(path, "k1", ["a", "b", "c"])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_pack(tmp_path / "none.parquet", "k1", [])


def test_a_write_that_fails_leaves_the_old_pack_and_nothing_else(tmp_path, monkeypatch):
    path = write_pack(tmp_path / "p.parquet", PACK)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("gone")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="gone"):
        write_pack(path, Pack("k9", 1, [], []))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["p.parquet"]


def test_the_key_depends_on_everything_that_changes_the_numbers():
    same = {"weights": "w", "items": "i", "max_new_tokens": 8, "precision": "float32"}
    keys = {pack_key(**same), *(pack_key(**{**same, name: 9}) for name in same)}
    assert len(keys) == 5 and pack_key(**same) == pack_key(**same)


def test_items_differ_by_id_tokens_and_prompt_but_not_by_other_columns():
    assert items_hash([item("a", note=1)]) == items_hash([item("a", note=2)])
    assert len({items_hash([item("a")]), items_hash([item("b")]), items_hash([item("a", prompt="P")])}) == 3


def test_packs_lie_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    assert pack_path("ab").parent == tmp_path / "packs"
