"""Which rule judges updates, and what it says of each of them.

A Gram rule depends on updates through their inner products alone: it is the same on updates in the clear, on
groups, and where only the Gram matrix is opened. The others are statistics of each coordinate.
`rows` compiles, so whoever holds updates imports it by its name.
"""

from shared.core.robust.judging.choice import Choice, largest_f, rows_judged
from shared.core.robust.judging.table import Kind, Mix, Needs, kind_of, names
from shared.core.robust.judging.verdict import Reason, Verdict, judge

__all__ = [
    "Choice",
    "Kind",
    "Mix",
    "Needs",
    "Reason",
    "Verdict",
    "judge",
    "kind_of",
    "largest_f",
    "names",
    "rows_judged",
]
