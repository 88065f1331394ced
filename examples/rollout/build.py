"""Train a model that names irises, and write it as a bundle's source: model.pkl, model.yaml, golden.json.

python build.py OUT_DIR --version 1    logistic regression
python build.py OUT_DIR --version 2    a random forest

The data are the 150 flowers that Anderson measured and Fisher made known in 1936, as scikit-learn ships them. A third
of them is held out of the training, to judge by.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model that names irises and write a bundle's source.")
    parser.add_argument("directory", type=Path, metavar="OUT_DIR", help="gets model.pkl, model.yaml and golden.json")
    parser.add_argument("--version", type=int, choices=(1, 2), default=1, help="1 (default) or 2")
    options = parser.parse_args()
    flowers, species = load_iris(return_X_y=True)
    known, held_out, names, held_out_names = train_test_split(
        flowers, species, test_size=1 / 3, random_state=0, stratify=species
    )
    model = LogisticRegression() if options.version == 1 else RandomForestClassifier(random_state=0)
    pipeline = make_pipeline(StandardScaler(), model).fit(known, names)
    options.directory.mkdir(parents=True, exist_ok=True)
    (options.directory / "model.pkl").write_bytes(pickle.dumps(pipeline, protocol=5))
    shutil.copy(Path(__file__).with_name("model.yaml"), options.directory)
    asked = held_out[:4]
    golden = [{"inputs": {"flower": asked.tolist()}, "outputs": {"species": pipeline.predict(asked).tolist()}}]
    (options.directory / "golden.json").write_text(json.dumps(golden))
    right = int((pipeline.predict(held_out) == held_out_names).sum())
    print(f"{type(model).__name__}: {right} of {len(held_out)} held-out flowers right")


if __name__ == "__main__":
    main()
