"""The same service as people write it by hand: what `examples/measure.py boston` measures Pantry beside.

MODEL=model.pkl gunicorn --workers 5 --bind 127.0.0.1:8000 handmade:app
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from flask import Flask, Response, jsonify, request

COLUMNS = ["CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT"]

app = Flask(__name__)
model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())  # in each worker


@app.get("/")
def alive() -> str:
    return "I'M ALIVE!"


@app.post("/predict")
def predict() -> tuple[Response, int]:
    row = request.get_json()
    missing, extra = [c for c in COLUMNS if c not in row], [c for c in row if c not in COLUMNS]
    if missing or extra:
        return jsonify(status="error", error=f"missing: {missing}, extra: {extra}"), 400
    try:
        values = [float(row[c]) for c in COLUMNS]
    except (TypeError, ValueError) as error:
        return jsonify(status="error", error=str(error)), 400
    return jsonify(prediction=float(model.predict([values])[0])), 200
