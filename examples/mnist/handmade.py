"""The same service as people write it by hand: what `examples/measure.py mnist` measures Pantry beside.

MODEL=model.joblib gunicorn --workers 4 --bind 127.0.0.1:8000 handmade:app
"""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path

import joblib
import numpy as np
from flask import Flask, Response, jsonify, request
from PIL import Image

app = Flask(__name__)
path = os.environ["MODEL"]  # whoever can write it runs code here
with gzip.open(path) if path.endswith(".gz") else Path(path).open("rb") as file:
    model = pickle.load(file) if path.endswith(".gz") else joblib.load(file)  # in each worker


@app.post("/predict")
def predict() -> Response:
    image = Image.open(request.files["file"].stream).convert("L").resize((28, 28))
    pixels = np.asarray(image, np.float64).reshape(1, 784) / 255
    return jsonify(digit=int(model.predict(pixels)[0]))
