"""KServe: PORT and the path of a pickled model. Its batches are made by an agent beside the pod, which is not here."""
# mypy: ignore-errors
# (what this imports is only in the peer's own virtual environment)

import logging
import pickle
import sys
from pathlib import Path

import kserve
import numpy as np


class Model(kserve.Model):
    def load(self):
        self.model = pickle.loads(Path(sys.argv[2]).read_bytes())
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        return {"predictions": self.model.predict(np.array(payload["instances"])).tolist()}


if __name__ == "__main__":
    model = Model("m")
    model.load()
    server = kserve.ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1, enable_latency_logging=False)
    logging.disable(logging.INFO)  # it writes three lines for each request otherwise
    server.start([model])
