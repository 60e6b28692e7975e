import pytest

from temper.assess.judges.echo import sentences, stem_of, without_echo

QUESTION = "Which city is the capital of Switzerland? A) Zurich B) Geneva C) Bern"
OPTIONS = ["Zurich", "Geneva", "Bern"]


def kept(trace, question=QUESTION, options=OPTIONS):
    left = without_echo(trace, question, options)
    assert len(left) == len(trace)  # spans stay right
    return " ".join(left.split())


@pytest.mark.parametrize(
    ("trace", "left"),
    [
        (QUESTION, ""),
        ("WHICH CITY IS THE CAPITAL OF SWITZERLAND", ""),
        ("So: which city is the capital of Switzerland? Well.", "So: ? Well."),
        ("It is Bern.", "It is Bern."),
        ("The capital of Switzerland is Bern.", "The capital of Switzerland is Bern."),
        ("the capital of Switzerland. Bern.", "Bern."),
        ("A) Zurich\nB) Geneva", ""),
        ("C) Bern", "C) Bern"),
        ("Zurich, Geneva or Bern?", "?"),
        ("Zurich and Geneva are wrong", "Zurich and Geneva are wrong"),
        ("A) Zurich B) Geneva C) Bern\nBern", "Bern"),
        ("Zurich, Geneva, Bern, Bern", ", Bern"),
        ("", ""),
    ],
)
def test_what_is_left_when_echoes_are_out(trace, left):
    assert kept(trace) == left


def test_an_option_that_is_part_of_another_does_not_hide_it():
    assert kept("acid rain, acid or rain", "Which?", ["acid", "acid rain", "rain"]) == ""


def test_a_question_of_few_words_is_no_echo():
    assert kept("Who is it? It is Ann.", "Who is it?", []) == "Who is it? It is Ann."


def test_a_choice_between_two_is_the_question_and_no_list():
    assert stem_of("Is it Bern or Rome?", ["Bern", "Rome"]) == "Is it Bern or Rome?"
    assert stem_of("Is it Bern, Rome or Oslo?", ["Bern", "Rome", "Oslo"]).split() == ["Is", "it", "?"]


def test_sentences_end_at_stops_and_line_breaks_but_not_in_numbers():
    text = "It is 3.5 m. Yes! Or?\nNo"
    assert [text[start:end].strip() for start, end in sentences(text)] == ["It is 3.5 m.", "Yes!", "Or?", "No"]
