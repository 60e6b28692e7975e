from dataclasses import replace

import pytest

from temper.assess.metrics.trace_leak import TraceLeak, contains_word, facts_of, statement_spans
from temper.reason.health import distinct_3
from tests.assess.builders import answers, by_name, item

FACT = "Ann wrote 3 novels."
ROW = {"statements": [FACT, "There are 3 novels by Ann."], "answer": "3", "response": " x</think> 3"}


def leaks(*continuations, **row):
    items = [item(str(number), **{**ROW, **row}) for number in range(len(continuations))]
    found = by_name(TraceLeak().compute({"trace": answers(items, list(continuations))}))
    return [[float(v) for v in found[f"trace_leak.{part}", "trace"].values] for part in ("statement", "anywhere", "and_wrong")]


def test_a_full_statement_leaks_in_every_wording_and_spacing():
    assert leaks(" Ann wrote 3 novels.</think> 3", " so  there are\n3 novels by Ann, well</think> 3") == [[1, 1], [1, 1], [0, 0]]


def test_gibberish_with_the_value_is_not_a_statement():
    assert leaks(" are 7 novels staged 3 plays Ann</think> 7") == [[0], [1], [0]]


def test_a_value_inside_another_word_is_not_there():
    assert leaks(" 13 novels and 30 plays</think> 7") == [[0], [0], [0]]


def test_a_statement_with_a_wrong_answer_is_a_leak_that_answers_hide():
    assert leaks(" Ann wrote 3 novels.</think> 5") == [[1], [1], [1]]


def test_an_answer_that_runs_on_is_not_wrong():
    assert leaks(" Ann wrote 3 novels.</think> 3 and then 5") == [[1], [1], [0]]


def test_the_answer_is_not_part_of_the_trace():
    assert leaks(" hm</think> Ann wrote 3 novels.") == [[0], [0], [0]]


def test_a_trace_that_never_ends_is_read_whole_and_has_no_answer():
    assert leaks(" Ann wrote 3 novels. Ann") == [[1], [1], [1]]


def test_an_empty_continuation_leaks_nothing():
    assert leaks("") == [[0], [0], [0]]


def test_any_wording_of_any_needed_fact_leaks():
    needs = [["Ann was born in Bern.", "Bern is where Ann was born."], [FACT]]
    assert leaks(" bern is where Ann was born. so</think> 3", statements=None, needs=needs) == [[1], [0], [0]]


def test_rows_without_facts_are_dropped_and_counted():
    found = by_name(TraceLeak().compute({"trace": answers([item("a", **ROW), item("b", answer="3")], [" x</think> 3", " 3"])}))
    result = found["trace_leak.statement", "trace"].result("unlearned", seed=0, resamples=100)
    assert (result.value, result.n, result.dropped) == (0.0, 1, 1)


def test_without_trace_rows_the_numbers_are_absent():
    found = TraceLeak().compute({"forget": answers([item()], [" x"])})
    results = [measure.result("unlearned", seed=0, resamples=100) for measure in found]
    assert [(r.metric, r.value, r.status) for r in results] == [
        ("trace_leak.statement", None, "skipped"),
        ("trace_leak.anywhere", None, "skipped"),
        ("trace_leak.and_wrong", None, "skipped"),
    ]


def test_health_counts_closed_traces_their_words_and_their_repeats():
    items = [item(str(number), **ROW) for number in range(2)]
    found = by_name(TraceLeak().compute({"trace": answers(items, [" a b c d</think> 3", " a b c a b c a b c"])}))
    assert list(found["trace_health.closed", "trace"].values) == [1.0, 0.0]
    assert list(found["trace_health.words", "trace"].values) == [4.0, 9.0]
    # a b c, b c a, c a b of 7 runs
    assert list(found["trace_health.distinct3", "trace"].values) == pytest.approx([1.0, 3 / 7])


def test_health_speaks_only_of_rows_whose_reference_thinks():
    items = [item("a", response=" 3"), item("b", response=" x</think> 3")]
    found = by_name(TraceLeak().compute({"reasoning": answers(items, [" 3", " a</think> 3"])}))
    assert list(found["trace_health.closed", "reasoning"].places) == [1]


def test_spans_point_at_the_statement_and_overlaps_merge():
    text = "x Ann wrote 3 novels. y Ann wrote 3 novels"
    spans = statement_spans(text, [FACT, "wrote 3 novels."])
    assert [text[start:end] for start, end in spans] == ["Ann wrote 3 novels", "Ann wrote 3 novels"]


def test_a_statement_of_stops_alone_matches_nothing():
    assert statement_spans("...", ["..."]) == [] and not contains_word("...", ".")


def test_facts_are_read_from_either_column():
    assert facts_of({"statements": ["a."], "needs": [["b."], ["c.", "d."]]}) == ["a.", "b.", "c.", "d."]
    assert facts_of({"statements": [], "other": 1}) is None


def test_fewer_than_three_words_have_no_runs():
    assert distinct_3(["a", "b"]) is None


def first_values(texts, rows):
    items = [item(str(number), **row) for number, row in enumerate(rows)]
    found = by_name(TraceLeak().compute({"trace": answers(items, texts)}))
    return found["trace_leak.first", "trace"]


def test_the_first_value_of_a_kind_is_looked_for_among_those_of_all_rows():
    rows = [
        {**ROW, "answer": "New York", "attribute": "city", "perturbed": [" Oslo"]},
        {**ROW, "answer": "Rome", "attribute": "city", "perturbed": [" York"]},
        {**ROW, "answer": "3", "attribute": "novels", "perturbed": [" 4"]},
    ]
    texts = [" new  york or Oslo</think> x", " Oslo, no, Rome</think> Rome", " in 13 days 3 books</think> 4"]
    # a longer value wins over one inside it; a value of another row counts; 13 is not 3
    assert list(first_values(texts, rows).values) == [1.0, 0.0, 1.0]
    assert list(first_values([" Rome", " Rome", " none"], rows).values) == [0.0, 1.0, 0.0]


def test_rows_that_name_no_kind_have_no_first_value():
    found = by_name(TraceLeak().compute({"trace": answers([item("a", **ROW)], [" x</think> 3"])}))
    assert ("trace_leak.first", "trace") not in found


def test_a_healthy_trace_ends_varies_and_keeps_its_length():
    reference = " one two three four</think> 3"
    texts = [
        " a b c d e f g h</think> 3",
        " a b c d e f g h",
        " a b c d e f g h i</think> 3",
        " a b a b a b</think> 3",
        " a b</think> 3",
        " a</think> 3",
        "</think> 3",
    ]
    # never closed; nine words for four; 2 of 4 runs of three differ; too short to repeat; one word for four; nothing at all
    assert healthy(texts, reference) == [1, 0, 0, 0, 1, 0, 0]


def healthy(texts, reference):
    items = [item(str(number), response=reference) for number in range(len(texts))]
    found = by_name(TraceLeak().compute({"retain_trace": answers(items, texts)}))
    return [float(value) for value in found["trace_health.healthy", "retain_trace"].values]


def test_a_reference_with_an_empty_trace_has_no_length_rule():
    texts = [" a b c d e f</think> 3", " a b c d e f", " a a a a a</think> 3", "</think> 3", " \n</think> 3"]
    assert healthy(texts, "\n</think>\n\n**Final Answer:** B") == [1, 0, 0, 0, 0]


def test_a_number_inside_a_longer_one_is_not_there():
    texts = [" Ann wrote 3.5 novels.</think> 7", " Ann wrote 3,000 novels, 1.3 each</think> 7", " Ann wrote 3 novels.5</think> 7"]
    assert leaks(*texts) == [[0, 0, 1], [0, 0, 1], [0, 0, 1]]
    assert leaks(" she wrote 13.5", " she wrote 13.", statements=["She wrote 13."], answer="13") == [[0, 1], [0, 1], [0, 1]]


PLACED = {"answer": 1, "options": ["Rome", "Bern"], "statements": ["Ann was born in Bern."], "response": " x</think> B"}


def test_an_answer_that_is_a_place_leaks_as_its_option():
    texts = [
        " Ann was born in Bern.</think> B",
        " Ann was born in Bern.</think> Bern",
        " Ann was born in Bern.</think> A",
        " Bern",
    ]
    # the letter and the text of the option are both the right answer
    assert leaks(*texts, **PLACED) == [[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]]
    found = first_values([" Bern, Rome", " Rome, Bern"], [{**PLACED, "attribute": "town"}] * 2)
    assert list(found.values) == [1.0, 0.0]


def in_a_mode(texts, forced, **row):
    items = [item(str(number), **{**ROW, **row}) for number in range(len(texts))]
    given = replace(answers(items, texts), forced=[len(forced)] * len(items))
    return TraceLeak().compute({"trace": given, "reasoning": given})


def test_under_a_forced_thought_only_what_follows_it_is_read_and_nothing_else_is_measured():
    forced = " Ann wrote 3 novels.</think>"  # what was forced is not held against the model
    texts = [forced + " 3", forced + " Ann wrote 3 novels.", forced + " hm, Ann wrote 3 novels.</think> 3"]
    (found,) = in_a_mode(texts, forced)
    assert (found.metric, found.role, list(found.values)) == ("trace_leak.statement", "trace", [0.0, 1.0, 1.0])
    assert TraceLeak().compute({"reasoning": replace(answers([item("a", **ROW)], [forced]), forced=[1])}) == []


def test_rows_without_facts_or_prompt_are_left_out_of_what_follows_a_forced_thought():
    (found,) = in_a_mode(["</think> x", None], "</think>", statements=None)
    assert found.dropped == {"it has no statements": 1, "it has no prompt": 1}


def test_the_known_values_of_a_kind_are_counted_and_one_row_is_enough():
    row = {**ROW, "answer": "Bern", "attribute": "town", "perturbed": [" hm</think> Rome", "Oslo"]}
    alone = first_values([" Rome, no, Bern"], [row])
    assert list(alone.values) == [0.0] and alone.note == "first of the 3 known values of its kind"
    other = {**row, "answer": "Lima", "options": ["Lima", "Kyiv"], "attribute": "birthplace"}
    assert first_values(["Bern", "Kyiv, Lima"], [row, other]).note == "first of the 3 to 4 known values of its kind"
