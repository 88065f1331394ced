"""Clients that others wrote work unmodified: NVIDIA's tritonclient and KServe's, over the Open Inference Protocol."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving_servers import cache
from tests.model_kinds import Doubler
from tests.serve import Server
from tests.test_server import put

http, utils = pytest.importorskip("tritonclient.http"), pytest.importorskip("tritonclient.utils")

ECHO = """
class Predictor:
    def load(self, bundle):
        pass
    def predict(self, inputs):
        return {f"{name}-back": array for name, array in inputs.items()}
"""
DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}


@pytest.fixture(scope="module", name="server")
def echoing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a model that doubles, one that answers what it is asked, and one that cannot be loaded."""
    server = Server(tmp_path_factory.mktemp("clients"))
    put(server, "m", "1", Doubler(), "inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]\n")
    put(server, "echo", "3", b"", "predictor: predictor.py:Predictor\n", predictor__py=ECHO)
    put(server, "broken", "1", b"no pickle")
    server.desire(("m", "1"), ("echo", "3"), ("broken", "1"))
    server.start()
    server.wait_for("echo", "ready")
    server.wait_for("broken", "failed")
    yield server
    server.stop()


@pytest.fixture(name="client")
def triton(server: Server) -> Iterator[Any]:
    with http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def tensor(name: str, array: Any, datatype: str, *, binary: bool) -> Any:
    value = http.InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array, binary_data=binary)
    return value


def test_health_and_metadata(client: Any) -> None:
    """The client sees what lives, what is ready, what a model takes, and the extension that it may use."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "1")
    assert not client.is_model_ready("broken")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("m", "1")
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]


def test_the_repository_index(client: Any, server: Server) -> None:
    """Every version is there with its state and the reason; only those that answer where these are asked for."""
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert index["m"] == {"name": "m", "version": "1", "state": "READY", "reason": ""}
    assert index["broken"]["state"] == "UNAVAILABLE"
    assert "cannot be loaded" in index["broken"]["reason"]
    ready = server.post("/v2/repository/index", json={"ready": True}).json()
    assert [entry["name"] for entry in ready] == ["m", "echo"]
    assert server.post("/v2/repository/index", json={"ready": 1}).status_code == 400
    assert server.post("/v2/repository/index", data=b"[" * 9000).status_code == 400


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize(("binary_in", "binary_out"), [(True, True), (False, True), (True, False), (False, False)])
def test_numbers_go_there_and_back(client: Any, datatype: str, binary_in: bool, binary_out: bool) -> None:
    """Every datatype, in JSON and in bytes, in both directions."""
    array = np.array([[0, 1, 1]], DATATYPES[datatype])
    asked = http.InferRequestedOutput("a-back", binary_data=binary_out)
    result = client.infer("echo", [tensor("a", array, datatype, binary=binary_in)], "3", outputs=[asked])
    back = result.as_numpy("a-back")
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())


def test_texts_and_several_tensors_go_there_and_back(client: Any) -> None:
    """Texts in both forms beside numbers; all outputs come, in bytes, where none is named; the id comes back."""
    words = np.array([["größer", ""], ["a", "b" * 70_000]], dtype=object)
    inputs = [
        tensor("w", words, "BYTES", binary=True),
        tensor("j", words, "BYTES", binary=False),
        tensor("n", np.arange(6, dtype=np.int16).reshape(2, 3), "INT16", binary=True),
    ]
    result = client.infer("echo", inputs, request_id="42", priority=1, timeout=5, parameters={"mine": "ignored"})
    for name in ("w-back", "j-back"):
        assert [[text.decode() for text in row] for row in result.as_numpy(name).tolist()] == words.tolist()
    assert result.as_numpy("n-back").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("42", "3")


def test_one_large_tensor(client: Any) -> None:
    """Eight million bytes of numbers are doubled within their own bytes, nothing lost."""
    array = np.arange(2_000_000, dtype=np.float32).reshape(-1, 2) % 1000
    result = client.infer("m", [tensor("x", array, "FP32", binary=True)])
    assert np.array_equal(result.as_numpy("output"), array * 2)


def test_what_is_wrong_reaches_the_client_as_a_sentence(client: Any) -> None:
    """The client raises with the server's own words and status."""
    good = tensor("x", np.zeros((1, 2), np.float32), "FP32", binary=True)
    wrong = tensor("x", np.zeros((1, 3), np.float32), "FP32", binary=True)
    for model, inputs, arguments, status, words in (
        ("m", [wrong], {}, "400", "expected shape"),
        ("m", [tensor("x", np.zeros((1, 2)), "FP64", binary=True)], {}, "400", "expected FP32, got FP64"),
        ("nobody", [good], {}, "404", "unknown"),
        ("broken", [good], {}, "503", "failed"),
        ("m", [good], {"model_version": "9"}, "404", "version '9'"),
        ("m", [good], {"outputs": [http.InferRequestedOutput("z")]}, "400", "output 'z' is unknown"),
        ("m", [good], {"outputs": [http.InferRequestedOutput("output", class_count=2)]}, "400", "classification"),
    ):
        with pytest.raises(utils.InferenceServerException, match=words) as raised:
            client.infer(model, inputs, **arguments)
        assert raised.value.status() == status


def test_compressed_bodies_are_refused_in_words(client: Any) -> None:
    """The client's compression is its own option; the server says that it takes none."""
    good = tensor("x", np.zeros((1, 2), np.float32), "FP32", binary=True)
    with pytest.raises(utils.InferenceServerException, match="without Content-Encoding"):
        client.infer("m", [good], request_compression_algorithm="gzip")
    assert client.infer("m", [good], response_compression_algorithm="gzip").as_numpy("output").tolist() == [[0, 0]]


def test_the_client_of_kserve_asks_as_it_asks_kserve(server: Server) -> None:
    """KServe's own Python client, from the environment that `benchmarks/peers serving` made: V1, v2, binary tensors."""
    python = cache() / "kserve/bin/python"
    if not python.exists():
        pytest.skip("needs KServe; run `benchmarks/peers serving`")
    script = Path(__file__).with_name("kserve_client.py")
    done = subprocess.run([python, "-P", script, server.url], capture_output=True, text=True, timeout=60, check=True)
    doubled = ["7", "m", [[2.0, 4.0], [6.0, 8.0]]]
    assert json.loads(done.stdout) == {
        "infer, binary False": doubled,
        "infer, binary True": doubled,
        "V1": [[2.0, 4.0]],
        "live": True,
        "ready": True,
        "model": [True, True],
    }
