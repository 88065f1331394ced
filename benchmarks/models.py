"""The models whose loading is measured: how each is made, and what it is to use all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

QUICK = 0.05  # of the size, with --quick


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        name: in the tables.
        make: returns the object, as large as the factor says.
        use: reads every value of it, and returns a number that depends on all of them.
        target: times faster than pickle.load it is promised to load; None where nothing is promised.
        modules: what its pickle imports, beside numpy.
    """

    name: str
    make: Callable[[float], Any]
    use: Callable[[Any], float]
    target: float | None = None
    modules: tuple[str, ...] = ()


class Item:
    """A small object."""

    def __init__(self, number: int) -> None:
        self.number, self.about = number, {"weight": number / 8}


def _arrays(factor: float) -> Any:
    random = np.random.default_rng(0)
    return [random.random(int(62.5e6 * factor), np.float32) for _ in range(4)]


def _table(words: int) -> Callable[[float], Any]:
    def make(factor: float) -> Any:
        random, count = np.random.default_rng(0), int(words * factor)
        return {f"word{n}": random.random(620, np.float32) for n in range(count)}

    return make


def _forest(factor: float) -> Any:
    """300 trees on labels without a rule, which grow as large as their 20,000 rows allow."""
    from sklearn.ensemble import RandomForestClassifier

    random = np.random.default_rng(0)
    rows, labels = random.random((20_000, 8), np.float32), random.integers(0, 8, 20_000)
    return RandomForestClassifier(max(2, int(300 * factor)), max_features=1, random_state=0).fit(rows, labels)


def _objects(factor: float) -> Any:
    """2.5 million objects: half of them instances, half of them dicts that these hold."""
    return [Item(n) for n in range(int(1_250_000 * factor))]


def _strings(factor: float) -> Any:
    return {f"key of {n}": f"the value of number {n}, {n % 977}" for n in range(int(1_500_000 * factor))}


def _tiny(factor: float) -> Any:
    random = np.random.default_rng(0)
    return [random.random(n % 30 + 1, np.float32) for n in range(int(500_000 * factor))]


def _total(arrays: Any) -> float:
    return float(sum(float(array.sum()) for array in arrays))


def _walk_forest(forest: Any) -> float:
    """Predict with every tree, and read all nodes: no few rows come by each."""
    rows = np.random.default_rng(1).random((500, 8), np.float32)
    nodes = sum(
        float(t.tree_.threshold.sum() + t.tree_.value.sum() + t.tree_.children_left.sum()) for t in forest.estimators_
    )
    return nodes + float(forest.predict_proba(rows).sum())


ARRAYS = Model("1 GB of arrays", _arrays, _total, 200)
TABLE = Model("word table, 200,000 × 620", _table(200_000), lambda table: _total(table.values()), 8)
FOREST = Model("random forest, 600 MB", _forest, _walk_forest, 2, ("sklearn.ensemble",))
MODELS = [
    ARRAYS,
    TABLE,
    Model("word table, 930,000 × 620", _table(930_000), lambda table: _total(table.values()), 8),
    FOREST,
    Model("2.5 M small objects", _objects, lambda items: sum(i.number + i.about["weight"] for i in items), 4),
    Model("1.5 M strings to strings", _strings, lambda d: sum(len(k) + len(v) for k, v in d.items()), 1 / 1.05),
    Model("500,000 tiny arrays", _tiny, _total),
]
SHARED = [ARRAYS, TABLE, FOREST]
