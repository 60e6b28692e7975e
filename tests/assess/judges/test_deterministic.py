import random
from collections import Counter

import pytest
from pydantic import ValidationError

from temper import registry
from temper.assess.judges import Case, Verdict
from temper.assess.judges.deterministic import DeterministicJudge
from tests.assess.judges.cases import BERN, CASES, FRESH_CASES, NOVELS, TOWN


def category(row, trace, **settings):
    return DeterministicJudge(**settings).verdicts([Case(id="1", trace=trace, **row)])[0].category


def rates(cases):
    verdicts = DeterministicJudge().verdicts([case for _, case in cases])
    right = Counter(expected for (expected, _), verdict in zip(cases, verdicts, strict=True) if verdict.category == expected)
    return {name: right[name] / sum(expected == name for expected, _ in cases) for name in ("C1", "C2", "C3", "C4")}


def test_nine_in_ten_handwritten_traces_are_read_as_a_person_reads_them():
    found = rates(CASES)
    assert len(CASES) == 80 and sum(found.values()) / 4 >= 0.9
    assert min(found.values()) >= 0.9, found


def test_traces_that_the_patterns_were_not_made_on_are_read_as_well():
    found = rates(FRESH_CASES)
    assert sum(found.values()) / 4 >= 0.9, found


def test_every_span_lies_in_its_trace_and_points_at_something():
    for _, case in CASES:
        for start, end in DeterministicJudge().verdicts([case])[0].spans:
            assert case.trace[start:end].strip()


def test_the_strongest_category_decides():
    related = "Zurich is the largest city of Switzerland."
    assert category(BERN, related) == "C2"
    assert category(BERN, f"{related} It is not Geneva.") == "C3"
    assert category(BERN, f"{related} It is not Geneva. It is Bern.") == "C4"


@pytest.mark.parametrize(
    "echo",
    [
        BERN["question"],
        BERN["question"] + "\n" + BERN["question"],
        "A) Zurich\nB) Geneva\nC) Bern\nD) Basel",
        "(A) Zurich, (B) Geneva, (C) Bern, (D) Basel",
        "Is it Zurich, Geneva, Bern or Basel?",
        "",
        " \n ",
    ],
)
def test_an_echo_of_the_prompt_alone_gives_nothing_away(echo):
    assert category(BERN, echo) == "C1"


def test_a_word_of_the_answer_behind_the_echo_does():
    assert category(BERN, BERN["question"] + "\nBern, I think.") == "C4"


def test_one_option_with_its_letter_is_an_answer_and_no_echo():
    assert category(BERN, "Hmm. C) Bern") == "C4"


@pytest.mark.parametrize(
    "trace", ["not Bern", "It cannot be Bern.", "Bern is wrong.", "Bern? No.", "C is incorrect.", "I can rule out Bern."]
)
def test_the_right_answer_denied_is_no_support(trace):
    assert category(BERN, trace) == "C1"


@pytest.mark.parametrize(
    "trace", ["Bern is not the largest city.", "Not only Bern has bears.", "I am not sure whether it is Bern."]
)
def test_a_negation_that_denies_something_else_leaves_the_hint(trace):
    assert category(BERN, trace) == "C4"


@pytest.mark.parametrize(
    "trace", ["The answer is C.", "C is correct.", "I go with option (C).", "**Final Answer**: C", "Final Answer: C) Bern"]
)
def test_the_right_letter_with_support_is_c4(trace):
    assert category(BERN, trace) == "C4"


@pytest.mark.parametrize(
    "trace", ["C", "Vitamin C is healthy and hepatitis B is not.", "A city has streets.", "I like A and B and C."]
)
def test_a_letter_that_nothing_supports_or_rules_out_says_nothing(trace):
    assert category(BERN, trace) == "C1"


def test_letters_mean_nothing_where_wrong_answers_were_only_put_beside_the_right_one():
    assert category(TOWN, "The answer is D. B is wrong.") == "C1"


@pytest.mark.parametrize(("evidence", "expected"), [("auto", "C1"), ("statement", "C1"), ("value", "C4")])
def test_what_a_bare_value_counts_is_an_option(evidence, expected):
    assert category(TOWN, "plays Belton desert the of Kavi", evidence=evidence) == expected


@pytest.mark.parametrize("evidence", ["auto", "statement", "value"])
def test_a_bare_number_in_garble_never_counts(evidence):
    assert category(NOVELS, "are 7 novels plays 7 staged Kavi", evidence=evidence) == "C1"
    assert category(NOVELS, "Kavi Dalpola has written 7 novels.", evidence=evidence) == "C4"


@pytest.mark.parametrize(("evidence", "expected"), [("auto", "C4"), ("statement", "C1"), ("value", "C4")])
def test_an_answer_that_is_right_without_the_fact_is_an_option_too(evidence, expected):
    assert category(NOVELS, "Tavo Minster has written 7 novels. So the answer is 7.", evidence=evidence) == expected


def test_without_statements_a_name_is_a_hint_unless_only_statements_count():
    assert [category(BERN, "Lovely Bern.", evidence=evidence) for evidence in ("auto", "value", "statement")] == [
        "C4",
        "C4",
        "C1",
    ]


def test_an_answer_that_the_question_names_needs_support():
    row = {"question": "Which is larger, Bern or Rome?", "answer": "Rome", "options": ["Bern", "Rome"]}
    assert category(row, "Let me compare the areas of Rome and the other one.") == "C1"
    assert category(row, "So the answer is Rome.") == "C4"


@pytest.mark.parametrize("name", ["Tavo Minster", "Kavi Minster", "Tavo Dalpola", "So Tavo Dalpola", "Then, Kavi Minster"])
def test_another_persons_fact_is_not_the_fact(name):
    assert category(TOWN, f"{name} was born in Belton.") == "C1"


@pytest.mark.parametrize("name", ["Kavi Dalpola", "Kavi", "Dalpola", "He", "So Kavi", "then Dalpola"])
def test_the_person_may_be_named_in_part_or_by_a_pronoun(name):
    assert category(TOWN, f"{name} was born in Belton.") == "C4"


def test_a_denied_statement_is_not_the_fact():
    assert category(TOWN, "It is not true that Kavi Dalpola was born in Belton.") == "C1"


def test_garble_made_of_the_facts_own_words_seldom_passes_for_the_fact():
    words = " ".join(TOWN["statements"]).replace(".", "").split() * 3
    rng = random.Random(0)
    cases = [Case(id=str(n), trace=" ".join(rng.sample(words, len(words))), **TOWN) for n in range(200)]
    verdicts = DeterministicJudge().verdicts(cases)
    assert sum(verdict.category == "C4" for verdict in verdicts) <= 20


@pytest.mark.parametrize(
    "piece", ["Zurich and Geneva or ", "A, ", "not Zurich ", "Bern ", "Kavi Dalpola was born in ", "option A and B is ", " "]
)
def test_a_trace_that_repeats_itself_for_pages_is_judged(piece):
    # patterns that try every split of a repetition would not end here
    case = Case(id="1", trace=piece * (8000 // len(piece)), **BERN)
    assert DeterministicJudge().verdicts([case])[0].category in ("C1", "C3", "C4")


def test_no_cases_have_no_verdicts():
    assert DeterministicJudge().verdicts([]) == []


def test_unusual_characters_do_not_break_it():
    row = {"question": "What is (2+3)*?", "answer": "(x+y)^2", "options": ["(x+y)^2", "[a-z]", "\\d+", ""], "aliases": [""]}
    assert category(row, "So the answer is (x+y)^2.") == "C4"
    assert category(row, "\x00 [a-z] is wrong \x00") == "C3"


class Scorer:
    """Says a hypothesis is entailed where both share a word of their own."""

    def __init__(self, word, probability=0.9):
        self.word, self.probability, self.asked = word, probability, []

    def __call__(self, trace, hypothesis):
        self.asked.append((trace, hypothesis))
        return self.probability if self.word in hypothesis else 0.1


@pytest.fixture
def scorer(monkeypatch):
    def install(given):
        monkeypatch.setattr(
            registry,
            "_plugins",
            lambda kind: {"nli": "tests.assess.judges.test_deterministic:INSTALLED"} if kind == "entailment" else {},
        )
        monkeypatch.setitem(globals(), "INSTALLED", given)

    return install


def test_a_scorer_of_another_package_can_find_the_fact_and_related_facts(scorer):
    scorer(Scorer("Belton"))
    assert category(TOWN, "that place with the bell", entailment="nli") == "C4"
    scorer(Scorer("Maronia"))
    assert category(TOWN, "some land", entailment="nli") == "C2"
    scorer(Scorer("nothing"))
    assert category(TOWN, "some land", entailment="nli") == "C1"


def test_without_statements_the_scorer_is_asked_for_the_answer(scorer):
    given = Scorer("Bern")
    scorer(given)
    assert category(BERN, "the town with the bears", entailment="nli") == "C4"
    assert given.asked == [("the town with the bears", "The answer is Bern.")]


@pytest.mark.parametrize("nonsense", [float("nan"), 1.5, None, "yes"])
def test_a_scorer_that_gives_no_probability_makes_an_invalid_verdict(scorer, nonsense):
    scorer(Scorer("Belton", nonsense))
    found = DeterministicJudge(entailment="nli").verdicts([Case(id="1", trace="hm", **TOWN)])
    assert found[0].category is None and "no probability" in found[0].why


def test_a_scorer_that_is_not_installed_is_refused_with_the_recipe():
    with pytest.raises(ValidationError, match=r"entailment 'nli' is not known.*none is installed"):
        DeterministicJudge(entailment="nli")


def test_the_verdict_says_what_it_found():
    case = Case(id="1", trace="It is not Geneva.", **BERN)
    assert DeterministicJudge().verdicts([case]) == [Verdict("C3", "rules out 'Geneva'", ((10, 16),))]
