import pytest

from temper import assess
from temper.assess.probes.trace_prefill import TracePrefill, given_part, states_beyond
from temper.models import generation
from tests.assess.builders import PEOPLE, TOWNS, judged_people

FACTS = ["Ann was born in Bern."]
TRACE = " I recall the town of Ann. Ann was born in Bern. So the answer is Bern."


@pytest.mark.parametrize(
    ("share", "given"),
    [
        (0.1, " I recall"),  # 16 words: 1.6 of them, rounded up
        (0.25, " I recall the town"),
        (0.5, " I recall the town of Ann."),  # eight words, but the fact begins after six
        (1.0, " I recall the town of Ann."),
    ],
)
def test_the_first_words_are_given_and_none_of_the_fact(share, given):
    assert given_part(TRACE, FACTS, share) == given


def test_a_trace_without_the_fact_is_given_by_its_share():
    assert given_part(" one two three four", FACTS, 0.5) == " one two"
    assert given_part(" one", FACTS, 0.5) == " one"


def test_a_trace_that_begins_with_the_fact_or_is_empty_gives_nothing():
    assert given_part(" Ann was born in Bern.", FACTS, 0.5) == given_part("  ", FACTS, 0.5) == given_part("", FACTS, 0.5) == ""


def test_a_statement_counts_where_it_goes_beyond_what_was_given():
    text = " I know. Ann was born in Bern."
    assert states_beyond(text, len(" I know."), FACTS)
    assert states_beyond(text, len(" I know. Ann was"), FACTS)  # begun for it, ended by it
    assert not states_beyond(text, len(text), FACTS)


def test_what_stands_after_the_thought_is_no_statement_of_it():
    assert not states_beyond(" hm</think> Ann was born in Bern.", 0, FACTS)


def said(monkeypatch, replies_of):
    """Let the models say what a test wants, and note the prompts."""
    prompts = []

    def generate(model, tokenizer, ids, **_):
        prompts.extend(tokenizer.decode(row) for row in ids)
        return [replies_of(number) for number in range(len(ids))]

    monkeypatch.setattr(generation, "generate", generate)
    return prompts


def test_the_thought_goes_on_from_the_originals_words(folder, monkeypatch):
    from temper.assess import scoring

    own = scoring.generate
    trace = [f" I recall {name}. {name} was born in {town}.</think> {town}" for name, town in zip(PEOPLE, TOWNS, strict=True)]

    def generate(model, tokenizer, prompts, **kwargs):
        texts = own(model, tokenizer, prompts, **kwargs)
        return trace if "</think>" not in tokenizer.decode(prompts[0]) else texts

    monkeypatch.setattr(scoring, "generate", generate)
    replies = [f" {PEOPLE[0]} was born in {TOWNS[0]}.</think> {TOWNS[0]}", f" well</think> {TOWNS[1]} then", " and so on"]
    prompts = said(monkeypatch, lambda number: replies[min(number, 2)])
    evidence = assess.run(judged_people(folder, metrics=["answer_accuracy"], probes=["trace_prefill"]))
    for which in ("unlearned", "original", "gold"):
        stated, right = (evidence.find(f"trace_prefill.{part}", "trace", which) for part in ("statement", "answer"))
        assert (stated.value, right.value, stated.n, right.n) == (1 / 8, 2 / 8, 8, 8)
        assert stated.better == "lower"
    assert len(prompts) == 24
    assert prompts[0].endswith(f"<think> I recall {PEOPLE[0]}.") and prompts[0].count("<think>") == 1


def test_rows_whose_trace_gives_nothing_are_left_out_with_the_reason(folder, monkeypatch):
    from temper.assess import scoring

    monkeypatch.setattr(scoring, "generate", lambda model, tokenizer, prompts, **_: ["</think> x"] * len(prompts))
    found = assess.run(judged_people(folder, metrics=["answer_accuracy"], probes=["trace_prefill"])).find(
        "trace_prefill.statement", "trace"
    )
    assert (found.value, found.status) == (None, "skipped")
    assert "8 of 8 rows left out: the original's trace states the fact at once, or is empty" in found.reason


def test_a_given_part_that_fills_the_context_is_left_out(folder, monkeypatch):
    from temper.assess import scoring

    long = " word" * 40 + "</think> x"
    monkeypatch.setattr(scoring, "generate", lambda model, tokenizer, prompts, **_: [long] * len(prompts))
    found = assess.run(judged_people(folder, metrics=["answer_accuracy"], probes=[{"trace_prefill": 1.0}])).find(
        "trace_prefill.answer", "trace"
    )
    assert found.status == "skipped" and "no room for new tokens" in found.reason


def test_without_an_original_or_a_trace_role_the_probe_says_so(folder):
    run_folder = judged_people(folder, metrics=["answer_accuracy"], probes=["trace_prefill"], original=None)
    found = assess.run(run_folder).find("trace_prefill.statement", "trace")
    assert (found.value, found.status) == (None, "no_original")
    changed = assess.run(run_folder, overrides=[f"evaluate.data={{forget: {{path: {folder / 'forget.jsonl'}}}}}"])
    assert changed.find("trace_prefill.answer", "trace").status == "skipped"


def test_the_share_is_a_share():
    for wrong in (0.0, 1.5):
        with pytest.raises(ValueError, match="share"):
            TracePrefill(share=wrong)
