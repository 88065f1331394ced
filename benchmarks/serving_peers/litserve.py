"""LitServe: PORT and the path of a pickled model."""
# mypy: ignore-errors
# (what this imports is only in the peer's own virtual environment)

import pickle
import sys
from pathlib import Path

import litserve
import numpy as np


class Model(litserve.LitAPI):
    def setup(self, device):
        self.model = pickle.loads(Path(sys.argv[2]).read_bytes())

    def decode_request(self, request):
        return request["input"]

    def batch(self, inputs):
        return np.array(inputs)

    def predict(self, x):
        return self.model.predict(x)

    def unbatch(self, output):
        return output.tolist()

    def encode_response(self, output):
        return {"output": output}


if __name__ == "__main__":
    # batch_timeout=0 takes what has queued, and looks again at once where nothing has, which keeps a core busy.
    # Provisional: 0 and 1 ms traded places on a busy machine; 10 ms was slower.
    # fast_queue: ZeroMQ, which the manual advises from a hundred requests a second.
    api = Model(max_batch_size=64, batch_timeout=0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="error",
        access_log=False,
    )
