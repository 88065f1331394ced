"""The same service as people write it by hand: what `examples/measure.py rollout` measures Pantry beside.

MODEL=model.pkl gunicorn --workers 2 --bind 127.0.0.1:8000 handmade:app
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from flask import Flask, Response, jsonify, request

VERSION = "1"  # is to be changed with the model, and nothing notices where it is not

app = Flask(__name__)
model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())  # in each worker


@app.post("/v2/models/rollout/infer")
def infer() -> Response:
    asked = request.get_json()["inputs"][0]
    species = [int(index) for index in model.predict([asked["data"]])]
    output = {"name": "species", "datatype": "INT64", "shape": [len(species)], "data": species}
    return jsonify(model_name="rollout", model_version=VERSION, outputs=[output])
