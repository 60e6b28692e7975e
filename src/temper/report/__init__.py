"""The report of a run and the comparison of runs: what a reader is shown, put together from evidence.

Sentences are computed from numbers and their intervals (`headlines`), figures and tables are drawn with `temper.display`.
What is measured belongs to `temper.assess`; nothing is measured or judged anew here. Light to import: matplotlib loads
when something is drawn.
"""

# Bound here once and for all: a first import of the module temper.report.compare later on would put the module in the
# place of the function of the same name.
from temper.report.compare import compare
from temper.report.one import run

__all__ = ["compare", "run"]
