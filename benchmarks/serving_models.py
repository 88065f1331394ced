"""The models that are served in the benchmark. Peers unpickle them too, so this imports only what they have."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


class Product:
    """Multiplies rows by a square matrix, which is read from memory once for each batch."""

    def __init__(self, size: int) -> None:
        self.matrix = np.random.default_rng(1).random((size, size))

    def predict(self, rows: Any) -> Any:
        """Return one number a row."""
        return (rows @ self.matrix)[:, 0]


class Rows:
    """Looks rows up in a table, and answers with their means."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def predict(self, numbers: Any) -> Any:
        """Return one number a row."""
        return self.table[numbers[:, 0]].mean(axis=1)


def models() -> dict[str, tuple[Any, int]]:
    """Return models with the number of their columns."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    chance = np.random.default_rng(1)
    rows, labels = chance.random((2000, 64)), chance.integers(0, 10, 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the labels are chance: there is nothing to learn
        regression = LogisticRegression(max_iter=50).fit(rows, labels)
    return {
        "logistic regression": (regression, 64),
        "forest": (RandomForestClassifier(100, random_state=1).fit(rows, labels), 64),
        "2048² product": (Product(2048), 2048),
    }
