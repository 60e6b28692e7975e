"""What every decoding mode is: a text that the response of a thinking row is made to begin with."""

from __future__ import annotations

from temper.assess.metrics.thoughts import CLOSE, OPEN, leaves_thought_open, opening_of
from temper.errors import InputError
from temper.recipe import NamedSettings

__all__ = ["Decoding", "blanks_of", "shown", "without_opening"]


class Decoding(NamedSettings):
    """Base of all decoding modes."""

    def forced(self, prompt: str, response: str) -> str:
        """Return what is put behind a prompt before the model goes on.

        Args:
            prompt: The rendered prompt with its prefill; it may end inside a thought, which is then not opened again.
            response: The row's reference answer, whose blanks and tags show how thoughts are written.
        """
        raise InputError(f"decoding {self.name} forces nothing")


def without_opening(prompt: str, text: str) -> str:
    """Return a text that writes a whole thought as it must stand behind a prompt: without its tag where the thought is open.

    Example:
        >>> without_opening("Q <think>", ".<think></think>"), without_opening("Q", ".<think></think>")
        ('</think>', '.<think></think>')
    """
    return text.partition(OPEN)[2] if OPEN in text and leaves_thought_open(prompt) else text


def blanks_of(prompt: str, response: str) -> tuple[str, str]:
    r"""Return the blanks that a reference answer writes after the opening tag and before the closing one.

    Example:
        >>> blanks_of("Q", "<think>\nwell \n</think> A")
        ('\n', ' \n')
    """
    opening = opening_of(prompt, response)
    thought = response.removeprefix(opening).partition(CLOSE)[0]
    return thought[: len(thought) - len(thought.lstrip())], thought[len(thought.rstrip()) :]


def shown(forced: str) -> str:
    """Return the part of a forced text that belongs to the thought: all up to its last closing tag.

    What a mode writes after the thought, such as a heading for the answer, is not the model's answer and is not read as one.
    """
    head, tag, _ = forced.rpartition(CLOSE)
    return head + tag
