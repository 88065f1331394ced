"""MLServer: PORT and the path of a pickled model."""
# mypy: ignore-errors
# (what this imports is only in the peer's own virtual environment)

import asyncio
import pickle
import sys
from pathlib import Path

from mlserver import MLModel, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.server import MLServer
from mlserver.settings import ModelParameters
from mlserver.types import InferenceResponse


class Model(MLModel):
    async def load(self):
        self.model = pickle.loads(Path(self.settings.parameters.uri).read_bytes())
        return True

    async def predict(self, payload):
        answers = self.model.predict(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("predict", answers)])


async def main():
    # In the server's own process: with parallel_workers=1 each request would cross a queue to another one.
    settings = Settings(
        host="127.0.0.1",
        http_port=int(sys.argv[1]),
        grpc_port=0,
        parallel_workers=0,
        debug=False,
        metrics_endpoint=None,
        gzip_enabled=False,
    )
    model = ModelSettings(
        name="m",
        implementation=Model,
        parameters=ModelParameters(uri=sys.argv[2]),
        max_batch_size=64,
        # The quickest of 0.1, 1 and 4 ms for 16 and 64 clients; one alone is answered twice as soon with 0.1.
        max_batch_time=0.001,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    import uvloop  # as `mlserver start` does

    uvloop.install()
    asyncio.run(main())
