import pytest
from pydantic import ValidationError

from temper.assess.decoding.mode import blanks_of, shown
from temper.assess.decoding.zero_thinking import ZeroThinking
from temper.recipe.named import named_settings

WORLD = ("<|user|> Q<|assistant|> <think>", " I recall. </think> Bern")
R1 = ("Q<think>", "\nI recall.\n</think>\n\nBern")
OPENED_BY_THE_MODEL = ("Q", "<think>\nI recall.\n</think>\n\nBern")


@pytest.mark.parametrize(
    ("form", "row", "text"),
    [
        ("plain", WORLD, " </think>"),
        ("plain", R1, "\n</think>"),
        ("plain", OPENED_BY_THE_MODEL, "<think>\n</think>"),
        ("plain", ("Q <think>", "x</think>y"), "</think>"),
        ("published", OPENED_BY_THE_MODEL, "\n<think> </think>"),
        ("published", WORLD, " </think>"),
        ("final_answer", OPENED_BY_THE_MODEL, ".<think></think>\n\n**Final Answer:**"),
        ("final_answer", R1, "</think>\n\n**Final Answer:**"),
    ],
)
def test_a_form_writes_an_empty_thought_and_never_a_second_tag(form, row, text):
    assert ZeroThinking(form=form).forced(*row) == text
    assert (row[0] + text).count("<think>") == 1


def test_the_worlds_thought_becomes_the_prefill_of_its_direct_answers():
    assert " <think>" + ZeroThinking().forced(*WORLD) == " <think> </think>"


def test_a_text_of_ones_own_takes_the_place_of_the_form():
    mode = ZeroThinking(text="<think>\nno\n</think>\n\n")
    assert mode.forced(*OPENED_BY_THE_MODEL) == "<think>\nno\n</think>\n\n"
    assert mode.forced(*R1) == "\nno\n</think>\n\n"


@pytest.mark.parametrize("text", ["", "</think>", "</think><think>", "<think>"])
def test_a_text_that_is_no_thought_is_refused(text):
    with pytest.raises(ValidationError, match="must hold"):
        ZeroThinking(text=text)


def test_the_name_with_a_form_is_a_recipe_entry():
    assert named_settings("decoding", {"zero_thinking": "published"}) == ZeroThinking(form="published")


def test_what_a_mode_writes_behind_the_thought_is_not_the_answer():
    assert shown("</think>\n\n**Final Answer:**") == "</think>"


def test_blanks_are_those_of_the_reference():
    assert blanks_of(*WORLD) == (" ", " ") and blanks_of(*OPENED_BY_THE_MODEL) == ("\n", "\n")
