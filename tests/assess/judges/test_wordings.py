import pytest

from temper.assess.judges.wordings import content_stems, is_denied, said_in_order, said_in_part

FACT, QUESTION = "Ann Lee was born in Bern.", "Where was Ann Lee born?"


@pytest.mark.parametrize(
    "text",
    [
        "Ann Lee was born in Bern",
        "Ann was born in Bern",
        "she was born in lovely Bern",
        "Ann Lee, as they say here, was born in Bern",
    ],
)
def test_a_fact_in_other_words_is_found(text):
    assert said_in_order(text, FACT, QUESTION) == [(0, len(text))]


@pytest.mark.parametrize(
    "text",
    [
        "born Bern Ann in Lee",
        "Bern was born in Ann Lee",
        "Ann Lee was never born in Bern",
        "Ann Lee was born. In Bern",
        "Ann Lee born Bern in",
        "Ann Lee born born in Bern",
        "Ann Moor was born in Bern",
        "Bea Lee was born in Bern",
        "Ann Lee was born in a a a a Bern",
        "was born in Bern",
    ],
)
def test_what_only_looks_like_the_fact_is_not(text):
    assert said_in_order(text, FACT, QUESTION) == []


def test_a_fact_with_a_number_needs_all_its_words():
    fact, question = "There are 7 novels by Ann Lee.", "How many novels are by Ann Lee?"
    assert said_in_order("there are indeed 7 novels by Ann Lee", fact, question)
    assert not said_in_order("7 novels Ann Lee", fact, question)
    assert not said_in_order("there are 7.5 novels by Ann Lee", fact, question)


def test_a_fact_of_one_word_beside_the_name_is_never_in_other_words():
    assert said_in_order("Ann Lee sings", "Ann Lee sings.", "What does Ann Lee do?") == []


def test_every_place_that_says_it_is_found():
    assert len(said_in_order("Ann was born in Bern. She was born in Bern.", FACT, QUESTION)) == 2


def test_a_part_must_hold_two_new_stems_all_numbers_and_no_negation():
    wording, question = "The tower was built in 1889 by Eiffel for the fair.", "How high is the tower?"
    assert said_in_part("Eiffel built it in 1889.", wording, question, 0.6) == (0, 24)
    assert said_in_part("Eiffel built it for the fair.", wording, question, 0.6) is None
    assert said_in_part("Eiffel never built it in 1889.", wording, question, 0.6) is None
    assert said_in_part("The tower is high.", wording, question, 0.1) is None
    assert said_in_part("Eiffel built it in 1889.", wording, question, 1.0) is None


def test_a_wording_that_denies_may_be_said():
    assert said_in_part("Bern never joined the old league.", "Bern never joined the league.", "Which town?", 0.6)


def test_two_new_stems_must_come_in_their_order():
    assert said_in_part("red then blue", "red blue", "?", 0.6) and not said_in_part("blue then red", "red blue", "?", 0.6)


def test_words_far_from_each_other_say_nothing():
    assert said_in_part("red " + "x " * 40 + "blue", "red blue", "?", 0.6) is None


def test_stems_leave_out_empty_words_and_endings():
    assert content_stems("She was reacting to sugars") == ["react", "sugar"]


def test_a_denial_reaches_five_words_and_not_over_a_stop():
    text = "Not so. Ann was born in Bern"
    assert not is_denied(text, (8, len(text)))
    assert is_denied("not that Ann was born", (9, 21)) and not is_denied("not a b c d e Ann", (14, 17))
