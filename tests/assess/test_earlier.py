import logging

import pytest

from temper.assess.earlier import differing, has_invalid, keep_earlier, settings_of
from temper.assess.evidence import Evidence
from temper.recipe import EvaluateSection
from tests.report.evidences import evidence

JUDGE = {"prompt": {"url": "https://x/v1", "model": "m", "votes": 3, "key_env": "SOME_KEY"}}


def section(**fields):
    return EvaluateSection.model_validate({"data": {"forget": {"path": "x.jsonl"}}} | fields)


def test_settings_name_judges_probes_and_lengths_and_nothing_that_leads_to_a_key():
    found = settings_of(section(judges=[JUDGE], probes=["relearning"], max_new_tokens=7))
    (judge,) = found["judges"]
    assert (judge["name"], judge["model"], judge["votes"], judge["url"]) == ("prompt", "m", 3, "https://x/v1")
    assert found["probes"][0]["name"] == "relearning" and found["max_new_tokens"] == 7
    assert "SOME_KEY" not in str(found) and "data" not in found


def test_metrics_that_were_left_out_are_named():
    assert "trace_leak" in settings_of(section())["metrics"]
    assert settings_of(section(metrics=["rouge"]))["metrics"] == ["rouge"]


def test_evidence_from_before_settings_were_kept_can_be_read():
    made = evidence("NPO").model_dump(mode="json")
    made.pop("settings")
    assert Evidence.model_validate(made).settings == {}


def test_evidence_with_invalid_verdicts_is_to_be_made_again():
    made = evidence("NPO")
    invalid = made.results[0].model_copy(update={"metric": "trace_category.prompt.invalid", "value": 0.1})
    assert not has_invalid(made)
    assert has_invalid(made.model_copy(update={"results": [*made.results, invalid]}))
    zero = invalid.model_copy(update={"value": 0.0})
    assert not has_invalid(made.model_copy(update={"results": [*made.results, zero]}))


class Kept:
    def log(self, event, **facts):
        self.facts = facts


@pytest.mark.parametrize(("fields", "kept"), [({"max_new_tokens": 7}, True), ({}, False)])
def test_evidence_of_other_settings_is_kept_and_the_difference_told(tmp_path, caplog, fields, kept):
    made = evidence("NPO", settings=settings_of(section()))
    path = made.write(tmp_path / "evidence.json")
    run = Kept()
    with caplog.at_level(logging.WARNING, logger="temper.assess.earlier"):
        keep_earlier(run, path, "0123456789abcdef", section(**fields))
    other = tmp_path / "evidence-0123456789ab.json"
    assert other.exists() is kept
    if kept:
        assert Evidence.read(other) == made
        assert "max_new_tokens" in caplog.text and "evidence-0123456789ab.json" in caplog.text
        assert run.facts["differing"] == ["max_new_tokens"]


def test_settings_that_differ_are_listed():
    assert differing({"a": 1, "b": [2]}, {"a": 1, "b": [3], "c": 0}) == ["b", "c"]
