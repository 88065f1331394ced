"""Ask a server with KServe's Python client, in an environment of its own; prints what it answers as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import kserve  # type: ignore[import-not-found] # benchmarks/peers installs it
import numpy as np


async def ask(url: str) -> dict[str, Any]:
    """Use every call of the client that a server without explainers can answer."""
    v1 = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1"))
    v2 = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
    given = kserve.InferInput("x", [2, 2], "FP32")
    answers: dict[str, Any] = {}
    for binary in (False, True):
        given.set_data_from_numpy(np.array([[1, 2], [3, 4]], np.float32), binary_data=binary)
        request = kserve.InferRequest("m", [given], request_id="7")
        answer = await v2.infer(url, request, model_name="m")
        answers[f"infer, binary {binary}"] = [answer.id, answer.model_name, answer.outputs[0].as_numpy().tolist()]
    answers["V1"] = (await v1.infer(url, {"instances": [[1, 2]]}, model_name="m"))["predictions"]
    answers["live"], answers["ready"] = await v2.is_server_live(url), await v2.is_server_ready(url)
    answers["model"] = [await v2.is_model_ready(url, "m"), await v1.is_model_ready(url, "m")]
    return answers


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(sys.argv[1]))))
