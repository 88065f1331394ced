"""Objects as models hold them, of every kind we know: packing has to keep each of them as it is.

Attributes:
    IN_MEMORY: kinds that may lie in memory as no pickle has them: arrays that are views, with gaps, of one another.
    KINDS: all.
"""

from __future__ import annotations

from tests.corpus import arrays, columns, composed, estimators, graphs, libraries, plain

IN_MEMORY = [kind for module in (plain, arrays, columns) for kind in module.KINDS]
KINDS = IN_MEMORY + [kind for module in (estimators, composed, libraries, graphs) for kind in module.KINDS]
