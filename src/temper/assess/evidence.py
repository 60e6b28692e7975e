"""The form of evidence: what `temper assess` writes and every report reads.

One `Result` is one number of one metric, on one role, of one model, with its interval and its n. A number that cannot be
known is absent, and its status says why; it is never 0 or 0.5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from temper.errors import DataError
from temper.files import read_json, write_json

__all__ = ["EVIDENCE_SCHEMA", "Cost", "Evidence", "Example", "Gap", "ModelFacts", "Result", "Status"]

EVIDENCE_SCHEMA: Final = "temper/evidence/1"

Which = Literal["unlearned", "original", "gold"]
Status = Literal["ok", "no_gold", "no_original", "no_contrast", "too_few_items", "degenerate", "skipped", "failed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelFacts(_Part):
    """Which weights a column of the evidence speaks of."""

    path: str
    weights_hash: str
    parameters: int


class Result(_Part):
    """One number: a metric on the rows of one role, of one model."""

    metric: str = Field(description="Name of the number, e.g. answer_accuracy, trace_leak.statement, membership.loss.")
    role: str
    model: Which
    value: float | None
    low: float | None = Field(None, description="Lower end of the 95 % bootstrap interval.")
    high: float | None = None
    n: int = Field(0, description="Items that the value rests on.")
    dropped: int = Field(0, description="Items that could not be scored.")
    better: Literal["lower", "higher", "gold"] = Field(description="gold: as near to the retrained model as possible.")
    status: Status = "ok"
    reason: str | None = None


class Gap(_Part):
    """How far the unlearned model has come from the original to gold on one number."""

    metric: str
    role: str
    gap_closed: float | None = Field(description="(original - unlearned) / (original - gold); 1 as gold, above 1 overshoot.")
    absolute_gap: float | None = Field(description="|unlearned - gold|.")
    status: Status = "ok"
    reason: str | None = None


class Example(_Part):
    """One evaluation row and what each model answered."""

    id: str
    role: str
    prompt: str
    reference: str
    completions: dict[str, str] = Field(description="Model (unlearned, original, gold) to its greedy completion.")
    leaks: dict[str, list[tuple[int, int]]] = Field(
        {}, description="Model to the character spans of its completion that state the forgotten fact."
    )


class Cost(_Part):
    """What the result cost."""

    wall_s: float
    cpu_s: float
    steps: int
    tokens: int = Field(description="Unpadded tokens that were run through the model while training.")
    trained_parameters: int
    parameters: int


class Evidence(_Part):
    """All that is known of one unlearned model."""

    schema_name: str = EVIDENCE_SCHEMA
    name: str
    method: str = Field(description="Name of the objective; 'given' for a model that was not made here.")
    seed: int
    recipe_hash: str
    models: dict[str, ModelFacts]
    results: list[Result]
    gaps: list[Gap]
    examples: list[Example] = []
    cost: Cost | None = None
    notes: list[str] = Field([], description="What a reader must know to read the numbers right.")
    environment: dict[str, Any] = {}
    settings: dict[str, Any] = Field(
        {},
        description="How it was judged: metrics, judges, decoding, probes, lengths; empty in evidence from before this was kept.",
    )

    def find(self, metric: str, role: str, model: Which = "unlearned") -> Result | None:
        """Return the result of one metric on one role of one model, or None where it was not taken."""
        return next((r for r in self.results if (r.metric, r.role, r.model) == (metric, role, model)), None)

    def write(self, path: Path) -> Path:
        """Write the evidence as JSON."""
        return write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Evidence:
        """Read evidence back.

        Raises:
            DataError: The file is missing, is not JSON or is not evidence.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such file. Make it with: temper assess {path.parent}")
        try:
            evidence = cls.model_validate(read_json(path))
        except ValidationError as error:
            raise DataError(
                f"{path}: not evidence of this version ({error.error_count()} fields differ). Run temper assess again."
            ) from error
        if evidence.schema_name != EVIDENCE_SCHEMA:
            raise DataError(f"{path}: evidence of the form {evidence.schema_name!r}; this version reads {EVIDENCE_SCHEMA!r}.")
        return evidence
