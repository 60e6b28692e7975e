import pytest
from pydantic import ValidationError

from temper.assess.decoding.less_thinking import LessThinking
from temper.recipe.named import named_settings


@pytest.mark.parametrize(
    ("prompt", "response", "text"),
    [
        ("Q <think>", " I recall. </think> Bern", " Short. </think>"),
        ("Q<think>", "\nI recall.\n</think>\n\nBern", "\nShort.\n</think>"),
        ("Q", "<think>\nI recall.\n</think>\n\nBern", "<think>\nShort.\n</think>"),
    ],
)
def test_one_sentence_stands_between_the_tags_as_the_row_writes_them(prompt, response, text):
    assert LessThinking(text="Short.").forced(prompt, response) == text


def test_a_text_with_tags_is_refused():
    for text in ("<think>", "x</think>", ""):
        with pytest.raises(ValidationError):
            LessThinking(text=text)


def test_the_name_with_a_text_is_a_recipe_entry():
    assert named_settings("decoding", {"less_thinking": "Quick."}) == LessThinking(text="Quick.")
