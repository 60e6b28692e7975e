import pytest

from temper.assess.metrics.final_answer import FinalAnswer, parsed_option
from tests.assess.builders import answers, by_name, item

TOWNS = ["Bern", "Rome", "New Rome", "Oslo"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("**Final Answer**: B", 1),
        ("**Final Answer:** (B)", 1),
        ("Final Answer\n\nB", 1),
        ("the answer is (B)", 1),
        ("The correct answer is B because it is old", 1),
        ("so the answer is option C.", 2),
        ("Answer: D) Oslo", 3),
        ("The answer is Rome.", 1),
        ("the answer is new rome", 2),
        ("answer is A. No, wait: the answer is B", 1),
        ("B", 1),
        (" (B)", 1),
        ("B) Rome", 1),
        ("**B.** Rome", 1),
        ("B\nBern is wrong", 1),
        (" Bern", 0),
        ("New Rome", 2),
        ("Oslo, of course", 3),
        ("It must be Oslo", 3),
        ("I choose (D) here", 3),
        ("", None),
        ("I do not know", None),
        ("Bernina", None),
        ("either Bern or Oslo", None),
        ("the answer is A dog", None),
        ("F", None),
        ("answer is unknown", None),
        ("because", None),
        (r"\boxed{B}", 1),
        (r"Final Answer: \boxed{B}", 1),
        (r"**Final Answer:** $\boxed{\text{New Rome}}$", 2),
        (r"It may be (A), but \(\boxed{\mathbf{d}}\)", 3),
        ("Final answer: b", 1),
        ("final answer: (c).", 2),
        ("The answer is option b.", 1),
        ("the answer is option B because it is old", 1),
        ("The correct option is B", 1),
        ("option B", 1),
        ("Option (c) is right", 2),
        ("choice d", 3),
        ("options are many", None),
        ("The choice a person makes", None),
        ("B. Was it not old?", 1),
        ("b", None),
        ("Not Bern", None),
        ("not B", None),
        ("not (B)", None),
        ("It is not Bern", None),
        ("It isn't Bern.", None),
        ("The answer is not Rome", None),
        ("the answer is not A, the answer is D", 3),
        ("Bern is wrong, Oslo", 3),
        ("B is wrong", None),
        ("B) Rome is incorrect", None),
        ("Final Answer: B is wrong", None),
        ("It is not Bern but Oslo", 3),
        ("Neither Bern nor Rome", None),
        ("I am not sure. Oslo", 3),
        ("Oslo, not Bern", 3),
        ("Oslo is the town", 3),
    ],
)
def test_what_stands_there_decides_the_option(text, place):
    assert parsed_option(text, TOWNS) == place


def test_options_that_are_letters_are_found_by_their_letter_and_an_article_is_none():
    assert parsed_option(" B", [" A", " B"]) == 1
    assert parsed_option("A dog was there", [" A", " B"]) is None


def test_options_that_are_digits_are_options():
    assert parsed_option("3", ["2", "3"]) == parsed_option("She wrote 3 novels", ["2", "3"]) == 1


def test_an_option_that_denies_is_not_denied():
    options = ["Not enough is known", "Bern"]
    assert parsed_option("Not enough is known", options) == parsed_option("The answer is: not enough is known.", options) == 0


def test_a_number_is_not_an_option_inside_a_longer_one():
    assert parsed_option("It was 13.5", ["13", "14"]) is None and parsed_option("It was 13.", ["13", "14"]) == 0


def test_one_option_alone_is_no_question_and_chance_stands_beside_the_share():
    items = [
        item("a", options=["Rome"], answer="Rome"),
        item("b", options=TOWNS, answer="Rome"),
        item("c", options=["Rome", "Oslo"], answer=0),
    ]
    found = by_name(FinalAnswer().compute({"forget": answers(items, [" x</think> Rome"] * 3)}))
    share, unparsed = (found[name, "forget"] for name in ("final_answer", "final_answer.unparsed"))
    assert share.dropped == {"it has one option only": 1} and list(share.places) == [1, 2]
    assert (share.note, unparsed.note) == ("chance is 0.375", None)  # (1/4 + 1/2) / 2


def measured(*texts, **row):
    row = {"options": TOWNS, "answer": "Rome", **row}
    items = [item(str(number), **row) for number in range(len(texts))]
    found = by_name(FinalAnswer().compute({"forget": answers(items, list(texts))}))
    return [found[name, "forget"].values.tolist() for name in ("final_answer", "final_answer.unparsed")]


def test_only_what_follows_the_last_closing_tag_is_read():
    assert measured(" it is Bern, A</think> B", " </think> A </think> B", " Rome</think> Bern") == [[1, 1, 0], [0, 0, 0]]


def test_an_answer_that_names_no_option_is_wrong_and_counted_as_unparsed():
    assert measured(" hm</think> who knows", " hm</think>") == [[0, 0], [1, 1]]


def test_a_thought_that_never_ends_has_no_answer():
    assert measured(" the answer is B") == [[0], [1]]  # the prompt ends inside the thought


def test_without_a_thought_the_whole_continuation_is_read():
    assert measured(" B", prompt="Q") == [[1], [0]]


def test_the_right_option_is_named_by_place_too():
    assert measured(" x</think> B", answer=1) == [[1], [0]]


def test_rows_without_options_have_no_result_and_among_others_a_reason():
    assert FinalAnswer().compute({"forget": answers([item("a", answer="R")], [" R"])}) == []
    items = [item("a", answer="R"), item("b", options=TOWNS, answer="Rome")]
    found = by_name(FinalAnswer().compute({"forget": answers(items, [" R", None])}))["final_answer", "forget"]
    assert found.dropped == {"it has no options": 1, "it has no prompt": 1}
