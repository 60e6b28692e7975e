import logging
import math

import pytest

from temper.assess.packs import pack_path
from temper.assess.passes import pass_key, remembered

ENTRIES = ["text", "", [0.1, -math.inf], None, [1e-300]]


def key(**changes):
    return pass_key(**{"kind": "choices", "weights": "w", "precision": "p", "content": ["c"], **changes})


def test_a_pass_is_made_once_and_comes_back_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    assert remembered(key(), lambda: ENTRIES) == ENTRIES
    assert remembered(key(), lambda: pytest.fail("made again")) == ENTRIES


def test_without_a_key_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    assert remembered(None, lambda: ENTRIES) == ENTRIES and list(tmp_path.iterdir()) == []


def test_a_torn_pass_is_made_again_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    remembered(key(), lambda: ENTRIES)
    pack_path(key()).write_bytes(b"torn")
    with caplog.at_level(logging.WARNING, logger="temper.assess.passes"):
        assert remembered(key(), lambda: ["new"]) == ["new"]
    assert "made again" in caplog.text and remembered(key(), lambda: ENTRIES) == ["new"]


def test_the_key_depends_on_everything():
    changes = [{}, {"kind": "k"}, {"weights": "v"}, {"precision": "q"}, {"content": ["d"]}]
    assert len({key(**change) for change in changes}) == 5
