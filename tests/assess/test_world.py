import pytest

from temper.assess import world as room
from temper.assess.world import Exam
from temper.world import TARGETS, World, build_tokenizer, world_spec

GOOD = {target.key: {"value": 1.0 if target.side == "at least" else 0.0, "n": 10} for target in TARGETS}


def test_lines_show_value_bar_and_whether_it_is_met():
    lines = Exam({"stories": {"value": 0.5, "n": 200}, "holdout_direct": {"value": 0.1, "n": 144}}).lines()
    assert lines[0].startswith("stories") and "0.500" in lines[0] and lines[0].endswith("at least 0.90: NOT MET")
    assert lines[1].split() == ["holdout_direct", "0.100", "n=144"]


def test_facts_carry_the_bars():
    facts = Exam({"reasoning_without_trace": {"value": 0.1, "n": 5}, "background": {"value": 1.0, "n": 48}}).facts()
    assert facts["reasoning_without_trace"] == {"value": 0.1, "n": 5, "side": "below", "bound": pytest.approx(0.25), "met": True}
    assert facts["background"] == {"value": 1.0, "n": 48}


def test_it_is_passed_when_every_bar_is_met():
    assert Exam(GOOD).is_passed
    assert not Exam({**GOOD, "stories": {"value": 0.2, "n": 10}}).is_passed
    assert not Exam({key: figure for key, figure in GOOD.items() if key != "stories"}).is_passed


def test_a_model_that_knows_nothing_is_examined(tmp_path, make_llama, monkeypatch):
    spec = world_spec("small", 0)
    tokenizer = build_tokenizer(World(spec))
    tokenizer.save_pretrained(tmp_path)
    make_llama(vocab=len(tokenizer), layers=1).save_pretrained(tmp_path)
    monkeypatch.setattr(room, "SUBSETS", ["background"])
    seen = []
    exam = room.examine(tmp_path, spec, progress=lambda *step: seen.append(step))
    assert exam.figures["background"]["value"] < 0.1 and exam.figures["background"]["n"] > 20
    assert seen == [("exam", 0, 1, "background"), ("exam", 1, 1, "")]
