"""One request that waits for a model, and what several need to become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.errors import PredictFailed, ServingError
from serving.wire.tensors import Array

Arrays = dict[str, Array]
Signature = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]


class Ticket:
    """One request that waits.

    Attributes:
        rows: that it asks about; 0 where it can only run alone.
        weight: rows that it takes of a batch.
        queued_at: monotonic seconds.
        outputs: the answer, when it is there.
        error: why there is none.
    """

    __slots__ = ("done", "error", "inputs", "outputs", "queued_at", "rows", "signature", "weight")

    def __init__(self, inputs: Arrays, done: Callable[[], None], now: float, most: int) -> None:
        self.inputs, self.done, self.queued_at = inputs, done, now
        self.rows, self.signature = _shape_of(inputs)
        self.weight = self.rows or most
        self.outputs: Arrays | None = None
        self.error: ServingError | None = None

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return self.outputs is not None or self.error is not None

    def result(self) -> Arrays:
        """Return the answer.

        Raises:
            ServingError: there is none.
        """
        if self.outputs is None:
            raise self.error or PredictFailed("the request has no result")
        return self.outputs


def _shape_of(inputs: Arrays) -> tuple[int, Signature]:
    """Return the number of rows, and what must be equal for two requests to become one."""
    signature = tuple([(name, array.dtype, array.shape[1:]) for name, array in inputs.items()])
    rows = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return (rows.pop() if len(rows) == 1 else 0), signature


def join(batch: Sequence[Ticket]) -> Arrays:
    """Return the inputs of several requests as those of one."""
    return {name: np.concatenate([ticket.inputs[name] for ticket in batch]) for name in batch[0].inputs}


def share(outputs: Arrays, batch: Sequence[Ticket]) -> None:
    """Give each request its own rows."""
    start = 0
    for ticket in batch:
        stop = start + ticket.rows
        ticket.outputs = {name: array[start:stop] for name, array in outputs.items()}
        start = stop


def has_rows(outputs: Arrays, rows: int) -> bool:
    """Tell whether each of the outputs has so many rows."""
    return all(array.ndim > 0 and array.shape[0] == rows for array in outputs.values())
