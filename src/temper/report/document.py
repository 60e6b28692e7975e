"""The form of report.json: what the page says, for programs."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from temper.assess.evidence import Evidence
from temper.report.headlines import Verdict
from temper.report.weights import Damage

__all__ = ["REPORT_SCHEMA", "Document", "Place", "Said"]

REPORT_SCHEMA: Final = "temper/report/1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Said(_Part):
    """The headline of one run."""

    name: str
    verdict: Verdict
    sentence: str
    details: list[str]


class Place(_Part):
    """Where a model stands in the forgetting-against-utility plane; null where it cannot be known."""

    name: str
    utility: float | None
    utility_low: float | None
    utility_high: float | None
    forgetting: float | None
    forgetting_low: float | None
    forgetting_high: float | None
    why: str | None


class Document(_Part):
    """A report as data: what it says, and the evidence it says it from; `weights` is what each run did to them, or why it is not known."""

    schema_name: str = REPORT_SCHEMA
    title: str
    headlines: list[Said]
    forgetting_measure: str | None
    positions: list[Place]
    limits: list[str]
    weights: list[Damage | str | None] = []
    evidence: list[Evidence]
