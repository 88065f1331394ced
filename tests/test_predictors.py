"""docs/predictors.md: its examples run as they stand there, and what it says of methods is so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from loader.bundle.bundle import Bundle
from loader.bundle.errors import ModelConfigInvalid
from loader.bundle.model_config import parse_model_config
from serving.errors import InvalidRequest, PredictorInvalid
from serving.models.golden import check_golden, read_golden
from serving.models.model import load_model
from serving.wire.protocol import decode_instances, encode_rows
from tests.conftest import write_bundle
from tests.model_kinds import Doubler

PAGE = (Path(__file__).resolve().parents[1] / "docs/predictors.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def load(directory: Path, model: Any, config: str, **files: str) -> tuple[Bundle, Any]:
    write_bundle(directory, model, config, **files)
    bundle = Bundle.open(directory)
    return bundle, load_model("m", "1", bundle, lambda _: None)


def test_the_example_answers_its_golden_requests(tmp_path: Path) -> None:
    """The page's predictor.py, model.yaml and golden.json make a bundle that would serve."""
    (source,), (_, config), (golden,) = blocks("python"), blocks("yaml"), blocks("json")
    source = source.replace("words.pkl", "model.pkl")  # as write_bundle calls it
    table = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "the": [0.5, 0.5]}
    files = {"predictor__py": source, "golden__json": golden, "stop__txt": "the a"}
    bundle, model = load(tmp_path / "b", table, config, **files)
    requests = read_golden(bundle, model.config)
    assert json.loads(golden)[0]["outputs"] == requests[0].outputs
    check_golden(model, requests)
    with pytest.raises(InvalidRequest, match="no word of 'bird' is known"):
        model.predict({"text": np.array(["bird"], dtype=object)})


def test_the_declaration_answers_labels_and_probabilities(tmp_path: Path) -> None:
    """A classifier with the page's first model.yaml takes rows by columns, and answers a label with probabilities."""
    config, asked = blocks("yaml")[0], re.findall(r'`({"instances".*?})`', PAGE)[0]
    iris = load_iris()
    _, model = load(tmp_path / "m", LogisticRegression(max_iter=1000).fit(iris.data, iris.target), config)
    (row,) = encode_rows(model.predict(decode_instances(json.loads(asked), model.config)), model.config)
    assert row["species"] == "setosa"
    assert sum(row["probabilities"]) == pytest.approx(1)
    assert row["probabilities"][0] > 0.9


def test_methods_that_cannot_be_called_are_named(tmp_path: Path) -> None:
    """A model without the method does not load; one beside a predictor.py would never be called, and is refused."""
    output = "outputs: [{name: p, datatype: FP64, shape: [-1], method: predict_proba}]\n"
    with pytest.raises(PredictorInvalid, match=r"model.pkl holds a Doubler, which has no method predict_proba\(\)"):
        load(tmp_path / "m", Doubler(), output)
    with pytest.raises(ModelConfigInvalid, match="method 'predict_proba' and a predictor, expected one of them"):
        parse_model_config((output + "predictor: p.py:P").encode(), "model.yaml")
