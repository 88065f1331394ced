"""Train an income classifier and write it as a bundle's source: model.pkl, predictor.py, model.yaml, golden.json.

python build.py OUT_DIR --version 1    logistic regression
python build.py OUT_DIR --version 2    gradient boosting

The data are made here: people with the 14 columns of the census data set "Adult", in its words, at frequencies like
there. What they earn follows from age, education, marriage, hours, gains and chance alone: no person is among them, and
the model says nothing about people. A quarter of the rows is held out of the training, to judge by.
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
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

Array = np.ndarray[Any, np.dtype[Any]]

PEOPLE = 8000
EDUCATION = {  # years and share; the words are the data set's
    "Preschool": (1, 0.2), "1st-4th": (2, 0.5), "5th-6th": (3, 1.0), "7th-8th": (4, 2.0), "9th": (5, 1.6),
    "10th": (6, 2.9), "11th": (7, 3.6), "12th": (8, 1.3), "HS-grad": (9, 32.3), "Some-college": (10, 22.4),
    "Assoc-voc": (11, 4.2), "Assoc-acdm": (12, 3.3), "Bachelors": (13, 16.4), "Masters": (14, 5.3),
    "Prof-school": (15, 1.8), "Doctorate": (16, 1.2),
}  # fmt: skip
COUNTRIES = [  # beside the first
    "Cambodia", "Canada", "China", "Columbia", "Cuba", "Dominican-Republic", "Ecuador", "El-Salvador", "England",
    "France", "Germany", "Greece", "Guatemala", "Haiti", "Holand-Netherlands", "Honduras", "Hong", "Hungary", "India",
    "Iran", "Ireland", "Italy", "Jamaica", "Japan", "Laos", "Nicaragua", "Outlying-US(Guam-USVI-etc)", "Peru",
    "Philippines", "Poland", "Portugal", "Puerto-Rico", "Scotland", "South", "Taiwan", "Thailand", "Trinadad&Tobago",
    "Vietnam", "Yugoslavia",
]  # fmt: skip
SHARES = {
    "workclass": {
        "Private": 70, "Self-emp-not-inc": 8, "Local-gov": 6, "?": 5, "State-gov": 4, "Self-emp-inc": 3,
        "Federal-gov": 3, "Without-pay": 0.5, "Never-worked": 0.5,
    },
    "marital-status": {
        "Married-civ-spouse": 46, "Never-married": 33, "Divorced": 14, "Separated": 3, "Widowed": 3,
        "Married-spouse-absent": 0.7, "Married-AF-spouse": 0.3,
    },
    "occupation": {
        "Prof-specialty": 13, "Craft-repair": 13, "Exec-managerial": 12, "Adm-clerical": 12, "Sales": 11,
        "Other-service": 10, "Machine-op-inspct": 6, "?": 6, "Transport-moving": 5, "Handlers-cleaners": 4,
        "Farming-fishing": 3, "Tech-support": 3, "Protective-serv": 1.5, "Priv-house-serv": 0.4, "Armed-Forces": 0.1,
    },
    "relationship": {
        "Husband": 40, "Not-in-family": 26, "Own-child": 16, "Unmarried": 10, "Wife": 5, "Other-relative": 3,
    },
    "race": {"White": 85, "Black": 10, "Asian-Pac-Islander": 3, "Amer-Indian-Eskimo": 1, "Other": 1},
    "sex": {"Male": 67, "Female": 33},
    "native-country": {"United-States": 90, "Mexico": 2, "?": 2} | dict.fromkeys(COUNTRIES, 0.15),
}  # fmt: skip
COLUMNS = {
    "age": "INT64", "workclass": "BYTES", "fnlwgt": "INT64", "education": "BYTES", "education-num": "INT64",
    "marital-status": "BYTES", "occupation": "BYTES", "relationship": "BYTES", "race": "BYTES", "sex": "BYTES",
    "capital-gain": "INT64", "capital-loss": "INT64", "hours-per-week": "INT64", "native-country": "BYTES",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Train an income classifier and write a bundle's source.")
    parser.add_argument("directory", type=Path, metavar="OUT_DIR", help="gets the source's four files")
    parser.add_argument("--version", type=int, choices=(1, 2), default=1, help="1 (default) or 2")
    options = parser.parse_args()
    people, incomes = make_people(np.random.default_rng(0))
    known, held_out, wages, held_out_wages = train_test_split(people, incomes, test_size=0.25, random_state=0)
    model = train(known, wages, options.version)
    options.directory.mkdir(parents=True, exist_ok=True)
    (options.directory / "model.pkl").write_bytes(pickle.dumps(model, protocol=5))
    for name in ("model.yaml", "predictor.py"):
        shutil.copy(Path(__file__).with_name(name), options.directory)
    asked = held_out[:4]
    inputs = {name: asked[:, place].tolist() for place, name in enumerate(COLUMNS)}
    golden = [{"inputs": inputs, "outputs": {"income": model.predict(asked).tolist()}}]
    (options.directory / "golden.json").write_text(json.dumps(golden))
    print(f"{type(model[-1]).__name__}: {model.score(held_out, held_out_wages):.0%} of {len(held_out)} held out right")


def make_people(random: np.random.Generator) -> tuple[Array, Array]:
    """Return rows of 14 columns, numbers and texts, and 1 for those who earn 50,000 dollars a year or more."""
    age = (17 + 73 * random.beta(1.6, 3.0, PEOPLE)).astype(int)
    education = draw(random, {name: share for name, (_, share) in EDUCATION.items()})
    years = np.array([EDUCATION[name][0] for name in education])
    words = {name: draw(random, shares) for name, shares in SHARES.items()}
    hours = np.clip(random.normal(40, 12, PEOPLE), 1, 99).astype(int)
    gain = np.where(random.random(PEOPLE) < 0.08, random.integers(100, 20_000, PEOPLE), 0)
    loss = np.where(random.random(PEOPLE) < 0.05, random.integers(200, 3_000, PEOPLE), 0)
    weight = random.lognormal(12.0, 0.5, PEOPLE).astype(int)
    married = words["marital-status"] == "Married-civ-spouse"
    merit = 0.35 * (years - 10) + 2.2 * married + 0.04 * np.minimum(age - 38, 20) + 0.03 * (hours - 40) + gain / 4000
    earns = merit + random.logistic(0, 1, PEOPLE) > 2.6
    columns = {
        "age": age, "fnlwgt": weight, "education": education, "education-num": years, "capital-gain": gain,
        "capital-loss": loss, "hours-per-week": hours, **words,
    }  # fmt: skip
    return np.column_stack([columns[name].astype(object) for name in COLUMNS]), earns.astype(int)


def draw(random: np.random.Generator, shares: dict[str, float]) -> Array:
    """Return a word for each person; each word is there at least once, so that the model knows it."""
    weights = np.array(list(shares.values()))
    words = random.choice(list(shares), PEOPLE, p=weights / weights.sum())
    words[: len(shares)] = list(shares)
    return words


def train(people: Array, incomes: Array, version: int) -> Pipeline:
    """Fit a pipeline that encodes the words by itself."""
    texts = [place for place, kind in enumerate(COLUMNS.values()) if kind == "BYTES"]
    numbers = [place for place, kind in enumerate(COLUMNS.values()) if kind == "INT64"]
    words = [sorted({"education": EDUCATION, **SHARES}[list(COLUMNS)[place]]) for place in texts]
    encode = make_column_transformer(
        (OneHotEncoder(categories=words, sparse_output=False), texts), (StandardScaler(), numbers)
    )
    model = LogisticRegression(max_iter=1000) if version == 1 else GradientBoostingClassifier(random_state=0)
    return make_pipeline(encode, model).fit(people, incomes)


if __name__ == "__main__":
    main()
