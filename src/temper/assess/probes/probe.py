"""What every probe is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from temper.assess.measure import Answers, Measure
from temper.errors import InputError
from temper.recipe import EvaluateSection, NamedSettings, WorldSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from temper.assess.evidence import Which
    from temper.data import Encoded

__all__ = ["Probe", "Request", "Setting"]


@dataclass(frozen=True, eq=False)
class Setting:
    """What is known before a model is scored.

    Attributes:
        rows: Evaluation rows by role.
        tokenizer: That encoded them.
        limit: Tokens that the models can read.
        settings: Of the recipe.
        world: What `world:` means.
        seed: Of the run.
    """

    rows: Mapping[str, Encoded]
    tokenizer: PreTrainedTokenizerBase
    limit: int
    settings: EvaluateSection
    world: WorldSection
    seed: int


@dataclass(frozen=True, eq=False)
class Request(Setting):
    """One model that is to be probed.

    Attributes:
        which: Its part in the comparison.
        answers: Its own answers by role, from the assessment.
        original: Those of the original model; None where there is none.
        load: Returns the model; it may be changed only by a probe that says so.
        told: Called with a number of units of work after each piece, see `Probe.work`.
    """

    which: Which
    answers: Mapping[str, Answers]
    original: Mapping[str, Answers] | None
    load: Callable[[], Any]
    told: Callable[[int], None]


class Probe(NamedSettings):
    """Base of all probes.

    Attributes:
        changes_model: Whether the model's weights are others afterwards.
    """

    changes_model: ClassVar[bool] = False

    def check(self, setting: Setting) -> None:
        """Refuse rows that the probe cannot work with, before any model is scored.

        Raises:
            DataError: Naming the role and the row.
        """

    def work(self, setting: Setting) -> int:
        """Return how many units of work one model costs."""
        return 1

    def inputs(self, setting: Setting) -> Any:
        """Return, as JSON, what the probe reads beside the evaluation rows; a change of it makes the evidence anew."""
        return None

    def content(self, request: Request) -> Any:
        """Return, as JSON, all that the measures depend on beside the weights and these settings."""
        raise InputError(f"probe {self.name} does not say what it depends on")

    def run(self, request: Request) -> list[Measure]:
        """Return the measures of one model; places are those of the role's rows."""
        raise InputError(f"probe {self.name} measures nothing")
