"""The same service as people write it by hand: what `examples/measure.py skipthoughts` measures Pantry beside.

MODEL=DIRECTORY gunicorn --workers 4 --bind 127.0.0.1:8000 handmade:app
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
from flask import Flask, Response, jsonify, request
from predictor import TABLES, TOKEN

from loader.bundle.theano_compat import prepare

prepare()  # without it Theano's last release cannot be imported today

app = Flask(__name__)
directory = Path(os.environ["MODEL"])
words = (directory / "dictionary.txt").read_text(encoding="utf-8").splitlines()
encoders = []
for name, file in TABLES.items():  # in each worker
    if not (directory / file).exists():
        continue
    table = dict(zip(words, np.load(directory / file, allow_pickle=True, encoding="latin1"), strict=True))
    encoders.append((table, pickle.loads((directory / f"{name}.pkl").read_bytes(), encoding="latin1")))


@app.get("/healthz")
def healthz() -> Response:
    return jsonify(code="200", message="Ok")


@app.post("/predict")
def predict() -> Response:
    return jsonify(vectors=[encode(sentence) for sentence in request.get_json()["sentences"]])


def encode(sentence: str) -> list[float]:
    tokens = TOKEN.findall(sentence) or ["<eos>"]
    vectors = []
    for table, function in encoders:
        embedding = np.stack([table.get(token, table["UNK"]) for token in tokens])[:, None]
        state = function(embedding, np.ones((len(tokens), 1), np.float32))[0]
        vectors.append(state / np.linalg.norm(state))
    found: list[float] = np.concatenate(vectors).tolist()
    return found
