import math

import pytest

from temper import files
from temper.assess.evidence import Evidence, ModelFacts, Result
from temper.errors import DataError


def evidence(value=0.5):
    result = Result(metric="probability", role="forget", model="unlearned", value=value, n=3, better="lower")
    return Evidence(
        name="x",
        method="given",
        seed=0,
        recipe_hash="h",
        models={"unlearned": ModelFacts(path="p", weights_hash="w", parameters=1)},
        results=[result],
        gaps=[],
    )


def test_it_comes_back_as_it_was_written(tmp_path):
    assert Evidence.read(evidence().write(tmp_path / "e.json")) == evidence()


def test_a_number_is_found_by_metric_role_and_model():
    assert evidence().find("probability", "forget").value == 0.5
    assert evidence().find("probability", "forget", "gold") is None


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        evidence(math.nan).write(tmp_path / "e.json")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_evidence_whole(tmp_path, monkeypatch):
    path = evidence(0.1).write(tmp_path / "e.json")

    def fail(*_):
        raise OSError("gone")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="gone"):
        evidence(0.9).write(path)
    assert Evidence.read(path) == evidence(0.1) and [file.name for file in tmp_path.iterdir()] == ["e.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_name": "temper/evidence/1"}'])
def test_what_is_no_evidence_is_refused(tmp_path, text):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(DataError, match=r"e\.json"):
        Evidence.read(tmp_path / "e.json")


def test_another_version_is_refused(tmp_path):
    text = evidence().write(tmp_path / "e.json").read_text().replace("evidence/1", "evidence/9")
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(DataError, match="evidence/9"):
        Evidence.read(tmp_path / "e.json")
