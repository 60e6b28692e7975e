"""Sources of traces: the model from before writes them, a column holds them, or a function gives them.

| name | where a trace comes from |
| --- | --- |
| `traces` | the model from before, greedy or drawn, in batches; kept in a file, made once, resumed where a run was killed |
| `trace_column` | a column of the rows, or of another file whose rows name their documents |
| `trace_callable` | a function that an installed package names in the entry-point group `temper.trace_callable` |

All three give rows for any role (`temper.reason.source`) and the traces themselves (`temper.reason.tracefile`).
"""

from temper.reason.called import CalledTraces
from temper.reason.column import ColumnTraces
from temper.reason.generated import GeneratedTraces

__all__ = ["CalledTraces", "ColumnTraces", "GeneratedTraces"]
