"""Names that recipes use, each mapped to ``"package.module:Object"`` and imported only when asked for.

This table is text, so it imports nothing: `temper methods` and `temper recipe validate` answer without loading torch.
Other packages add names through entry points in the group ``temper.<kind>`` (for example ``temper.objective``).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from temper.errors import InputError, nearest

__all__ = ["SYSTEMS", "System", "names", "resolve"]

_TABLE: Final[dict[str, dict[str, str]]] = {
    "alternatives": {
        "column": "temper.unlearn.alternatives.column:Column",
        "generate": "temper.unlearn.alternatives.generate:Generate",
        "refusals": "temper.unlearn.alternatives.refusals:Refusals",
    },
    "objective": {
        "altpo": "temper.unlearn.altpo:AltPO",
        "ceu": "temper.unlearn.ceu:CEU",
        "dpo": "temper.unlearn.dpo:DPO",
        "ga": "temper.unlearn.ga:GradientAscent",
        "graddiff": "temper.unlearn.graddiff:GradDiff",
        "klmin": "temper.unlearn.klmin:KLMin",
        "logit_offset": "temper.unlearn.logit_offset:LogitOffset",
        "me": "temper.unlearn.me:MaximumEntropy",
        "npo": "temper.unlearn.npo:NPO",
        "pdu": "temper.unlearn.pdu:PDU",
        "po": "temper.unlearn.po:PreferenceOptimization",
        "r2mu": "temper.unlearn.r2mu:R2MU",
        "rmu": "temper.unlearn.rmu:RMU",
        "rmu_rtp": "temper.unlearn.rmu_rtp:RMURTP",
        "satimp": "temper.unlearn.satimp:SatImp",
        "simnpo": "temper.unlearn.simnpo:SimNPO",
        "task_vector": "temper.unlearn.task_vector:TaskVector",
        "undial": "temper.unlearn.undial:UNDIAL",
        "wga": "temper.unlearn.wga:WGA",
    },
    "selection": {
        "all": "temper.models.selection:SelectAll",
        "gradient": "temper.unlearn.attribution.gradient:Gradient",
        "layers": "temper.models.selection:SelectLayers",
        "lora": "temper.models.lora:SelectLora",
        "magnitude": "temper.unlearn.attribution.magnitude:Magnitude",
        "mask": "temper.models.selection:SelectMaskFile",
        "modules": "temper.models.selection:SelectModules",
        "pattern": "temper.models.selection:SelectPattern",
        "random": "temper.unlearn.attribution.uniform:Uniform",
        "rows": "temper.models.selection:SelectRows",
        "snip": "temper.unlearn.attribution.snip:Snip",
        "wagle": "temper.unlearn.attribution.wagle:Wagle",
        "wagle_product": "temper.unlearn.attribution.wagle_product:WagleProduct",
        "wanda": "temper.unlearn.attribution.wanda:Wanda",
    },
    "smoother": {
        "cr": "temper.train.smoothers.cr:CR",
        "gp": "temper.train.smoothers.gp:GP",
        "rs": "temper.train.smoothers.rs:RS",
        "sam": "temper.train.smoothers.sam:SAM",
        "wa": "temper.train.smoothers.wa:WA",
    },
    "merge": {
        "dare_linear": "temper.merge.dare_linear:DareLinear",
        "dare_ties": "temper.merge.dare_ties:DareTies",
        "linear": "temper.merge.linear:Linear",
        "magnitude_prune": "temper.merge.magnitude_prune:MagnitudePrune",
        "negation": "temper.merge.negation:Negation",
        "norm_matched_mean": "temper.merge.norm_matched_mean:NormMatchedMean",
        "slerp": "temper.merge.slerp:Slerp",
        "task_arithmetic": "temper.merge.task_arithmetic:TaskArithmetic",
        "ties": "temper.merge.ties:Ties",
    },
    "judge": {
        "deterministic": "temper.assess.judges.deterministic:DeterministicJudge",
        "prompt": "temper.assess.judges.prompt:PromptJudge",
    },
    "entailment": {},  # other packages' scorers only
    "decoding": {
        "less_thinking": "temper.assess.decoding.less_thinking:LessThinking",
        "zero_thinking": "temper.assess.decoding.zero_thinking:ZeroThinking",
    },
    "probe": {
        "relearning": "temper.assess.probes.relearning:Relearning",
        "trace_prefill": "temper.assess.probes.trace_prefill:TracePrefill",
    },
    "provider": {
        "trace_callable": "temper.reason.traces:CalledTraces",
        "trace_column": "temper.reason.traces:ColumnTraces",
        "traces": "temper.reason.traces:GeneratedTraces",
    },
    "schedule": {"sum": "temper.train.schedule:SumSchedule"},
    "metric": {
        "answer_accuracy": "temper.assess.metrics.answer_accuracy:AnswerAccuracy",
        "choice_accuracy": "temper.assess.metrics.choice_accuracy:ChoiceAccuracy",
        "exact_memorization": "temper.assess.metrics.exact_memorization:ExactMemorization",
        "extraction_strength": "temper.assess.metrics.extraction_strength:ExtractionStrength",
        "final_answer": "temper.assess.metrics.final_answer:FinalAnswer",
        "membership": "temper.assess.metrics.membership:Membership",
        "probability": "temper.assess.metrics.probability:Probability",
        "rouge": "temper.assess.metrics.rouge:Rouge",
        "trace_category": "temper.assess.metrics.trace_category:TraceCategory",
        "trace_leak": "temper.assess.metrics.trace_leak:TraceLeak",
        "trace_perplexity": "temper.assess.metrics.trace_perplexity:TracePerplexity",
    },
}


@dataclass(frozen=True)
class System:
    """One of the ten published systems and what of it works in this version.

    Attributes:
        name: Its name in the literature.
        gives: What a user gets from it, in one line.
        room: The package that holds it.
        works: What works today; empty when nothing does yet.
    """

    name: str
    gives: str
    room: str
    works: str


SYSTEMS: Final[tuple[System, ...]] = (
    System(
        "R2MU",
        "forgetting in reasoning traces, not only answers, with reasoning kept",
        "temper.unlearn",
        "R2MU with its baselines (RMU, zero-thinking, reflection-token penalty, v0); trace providers; leak judges, decoding modes, probes",
    ),
    System(
        "WAGLE",
        "attribution of the weights that forget; masked training of those",
        "temper.unlearn, temper.train",
        "scores wagle, wagle_product, snip, gradient, magnitude, wanda, random; exact masks, mask files; MaskedOptimizer; sparse deltas",
    ),
    System(
        "SPUNGE",
        "split forget data by attribute, unlearn apart, merge",
        "temper.unlearn, temper.merge",
        "merging alone (temper merge)",
    ),
    System(
        "LLM unlearning, rethought",
        "scope, objectives and the assessment against a retrained model",
        "temper.unlearn, temper.assess",
        "GA, GradDiff, KL-min, PO, DPO-idk, AltPO, NPO, SimNPO, RMU, UNDIAL, CE-U, WGA, SatImp, maximum entropy, PDU, task vector, "
        "logit offset; SAM, RS, GP, CR, WA; "
        "first evidence against gold",
    ),
    System(
        "SISA + FairSISA", "exact deletion by shards; fair post-processing of the ensemble", "temper.sisa, temper.fairness", ""
    ),
    System("EPiC", "chain-of-thought data condensed to head and tail", "temper.reason", ""),
    System("XRIGHT (ALRIGHT, MAXRIGHT)", "joint supervised and preference training that forgets neither", "temper.align", ""),
    System("MAP", "several human values to chosen levels, by a certified primal-dual solution", "temper.align", ""),
    System("LinC", "calibrated in-context classification from a few labels", "temper.calibrate", ""),
    System("Prefix-tuning poisoning", "planting, measuring, auditing, defending generative models", "temper.poison", ""),
)


def _plugins(kind: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=f"temper.{kind}")}


def names(kind: str) -> list[str]:
    """Return the names registered for a kind, sorted, plug-ins included."""
    return sorted({*_TABLE[kind], *_plugins(kind)})


def resolve(kind: str, name: str) -> Any:
    """Return the object registered under a name.

    A built-in name cannot be replaced by a plug-in.

    Raises:
        InputError: The name is unknown; the nearest one is given.
    """
    target = _TABLE[kind].get(name) or _plugins(kind).get(name)
    if target is None:
        known = names(kind)
        raise InputError(f"{kind} {name!r} is not known{nearest(name, known)}. Known: {', '.join(known)}.")
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
