"""Ray Serve: PORT and the path of a pickled model."""
# mypy: ignore-errors
# (what this imports is only in the peer's own virtual environment)

import pickle
import signal
import sys
from pathlib import Path

import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions


@serve.deployment(num_replicas=1, max_ongoing_requests=128, logging_config={"enable_access_log": False})
class Model:
    def __init__(self, path):
        self.model = pickle.loads(Path(path).read_bytes())

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0)
    async def predict(self, rows):
        return self.model.predict(np.array(rows)).tolist()

    async def __call__(self, request):
        return await self.predict(await request.json())


if __name__ == "__main__":
    home = str(Path(sys.argv[2]).parent)  # its sockets and logs go with the run
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, _temp_dir=home)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=int(sys.argv[1])))
    serve.run(Model.bind(sys.argv[2]))
    signal.sigwait([signal.SIGTERM])
    serve.shutdown()
    ray.shutdown()
