import pytest

from temper.assess.judges.clauses import mentions

OPTIONS = {0: ["Rome"], 1: ["Bern"], 2: ["Oslo"], 3: ["Ada Byron"]}
SIGNS = {"rules out": "-", "supports": "+", "names": "."}


def read(text, letters=0):
    """Return each naming as its option and -, + or ., with the right option 1."""
    return " ".join(f"{m.option}{SIGNS[m.reading]}" for m in mentions(text, OPTIONS, 1, letters=letters))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Rome", "0."),
        ("not Rome", "0-"),
        ("neither Rome nor Oslo", "0- 2-"),
        ("Rome and Oslo are wrong", "0- 2-"),
        ("I rule out Rome, Oslo and Bern", "0- 2- 1-"),
        ("not Rome but Bern", "0- 1+"),
        ("Bern rather than Rome", "1. 0-"),
        ("Rome is in Italy and does not fit", "0-"),
        ("Rome is in Italy, so it can't be that. Well.", "0-"),
        ("Rome is in Italy, so that can't be it", "0-"),
        ("Rome? No.", "0-"),
        ("Rome? No, it is Bern.", "0- 1."),
        ("Rome? Yes.", "0."),
        ("Bern is not large", "1."),
        ("Bern is not the answer", "1-"),
        ("Bern cannot be it", "1-"),
        ("The answer is Bern", "1+"),
        ("Bern is correct", "1+"),
        ("It must be Bern", "1+"),
        ("which leaves Bern", "1+"),
        ("Rome is wrong. The answer is Bern.", "0- 1+"),
        ("Roman Bernese", ""),
        ("Byron wrote it", "3."),
        ("byron", ""),
        ("", ""),
    ],
)
def test_namings_are_read_with_the_words_around_them(text, found):
    assert read(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is B", "1+"),
        ("(B) is correct", "1+"),
        ("A and C are wrong", "0- 2-"),
        ("Eliminate A to C", "0- 1- 2-"),
        ("**Final Answer**: B", "1+"),
        ("A city in vitamin B", ""),
        ("option E", ""),
        ("a b c d", ""),
    ],
)
def test_letters_name_options(text, found):
    assert read(text, letters=4) == found


def test_letters_are_not_read_where_the_question_has_none():
    assert read("The answer is B") == ""


def test_spans_point_at_the_naming():
    text = "It is not Rome, it is Ada Byron."
    assert [text[slice(*m.span)] for m in mentions(text, OPTIONS, 1)] == ["Rome", "Ada Byron"]
