"""The figures of a report, one file each: they show what the tables hold and say nothing that the tables do not."""

from temper.report.figures.dots import dots, legend
from temper.report.figures.layers import layers
from temper.report.figures.membership import membership
from temper.report.figures.pairs import answer_against_trace, picture
from temper.report.figures.plane import plane

__all__ = ["answer_against_trace", "dots", "layers", "legend", "membership", "picture", "plane"]
