"""The same service as people write it by hand: what `examples/measure.py census` measures Pantry beside.

MODEL=model.pkl SECRET=signing-secret gunicorn --workers 4 --bind 127.0.0.1:8000 handmade:app
"""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import jwt
import numpy as np
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from flask import Flask, Response, jsonify, request

DECODING = ["Annual Salary <50K", "Annual Salary >=50K"]
USERS = {"alice": PasswordHasher().hash("correct horse battery staple")}

app = Flask(__name__)
model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())  # in each worker
secret = Path(os.environ["SECRET"]).read_text()


@app.get("/login")
def login() -> tuple[Response, int]:
    sent: Any = request.authorization
    try:
        PasswordHasher().verify(USERS[sent.username], sent.password)
    except (AttributeError, KeyError, VerifyMismatchError):
        return jsonify(error="wrong name or password"), 401
    claims = {"sub": sent.username, "exp": int(time.time()) + 3600}
    return jsonify(token=jwt.encode(claims, secret, "HS256")), 200


@app.post("/prediction")
def prediction() -> tuple[Response, int]:
    try:
        jwt.decode(request.headers.get("Authorization", ""), secret, ["HS256"])
    except jwt.PyJWTError as error:
        return jsonify(error=str(error)), 401
    rows = np.array(request.get_json()["inputs"], object)
    return jsonify(predictions=[DECODING[i] for i in model.predict(rows)]), 200
