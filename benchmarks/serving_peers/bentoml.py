"""BentoML: PORT and the path of a pickled model."""
# mypy: ignore-errors
# (what this imports is only in the peer's own virtual environment)

import os
import pickle
import sys
from pathlib import Path

import bentoml
import numpy as np


@bentoml.service(
    workers=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    traffic={"timeout": 60},
)
class Service:
    def __init__(self):
        self.model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.predict(rows)


if __name__ == "__main__":
    os.environ["MODEL"] = sys.argv[2]
    where = ["--host", "127.0.0.1", "--port", sys.argv[1], "--working-dir", str(Path(__file__).parents[2])]
    os.execvp("bentoml", ["bentoml", "serve", "benchmarks.serving_peers.bentoml:Service", *where])
