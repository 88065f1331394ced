"""openapi.json: it describes every route, its schemas are what the server takes, and a fuzzer finds nothing from it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from loader.bundle.model_config import ModelConfig, parse_model_config
from serving import errors
from serving.errors import InvalidRequest, ServingError
from serving.http import routes
from serving.http.guard import OPEN_PATHS
from serving.wire import openapi, schemas
from serving.wire.infer import decode_infer
from serving.wire.openapi import Described
from serving.wire.protocol import decode_instances, decode_short
from tests.conftest import write_bundle
from tests.serve import Server

Draft202012Validator = importlib.import_module("jsonschema").Draft202012Validator  # it has no types

ROOT = Path(__file__).resolve().parents[1]
DIGITS = """\
inputs: [{name: pixels, datatype: FP64, shape: [-1, 4], image: {size: [2, 2]}}]
outputs: [{name: digit, datatype: INT64, shape: [-1], labels: [zero, one]}]
question: {one: scan, many: scans}
answer: {one: digit, many: digits, error: {status: error}}
alive: {/: I AM HERE, /healthz: {code: "200"}}
predictor: predictor.py:Predictor
"""
DIGITS_CODE = """\
class Predictor:
    def load(self, bundle):
        pass
    def predict(self, inputs):
        return (inputs["pixels"][:, 0] > 0).astype("int64")
"""
HOUSE = """\
inputs:
- {name: rooms, datatype: UINT8, shape: [-1]}
- {name: street, datatype: BYTES, shape: [-1]}
- {name: new, datatype: BOOL, shape: [-1]}
outputs:
- {name: price, datatype: FP32, shape: [-1]}
- {name: twice, datatype: INT64, shape: [-1, 2]}
predictor: predictor.py:Predictor
"""
HOUSE_CODE = """\
import numpy as np
class Predictor:
    def load(self, bundle):
        pass
    def predict(self, inputs):
        rooms = inputs["rooms"].astype("int64")
        return {"price": rooms.astype("float32") / 2, "twice": np.stack([rooms, 2 * rooms], axis=1)}
"""
COLUMNS = "inputs: [{name: x, datatype: INT32, shape: [-1, 2], columns: [age, height]}]"


def fill(server: Server) -> None:
    """Put models of several kinds on a server's volume: an image, several inputs, and nothing declared."""
    write_bundle(server.volume / "digits" / "1", None, DIGITS, predictor__py=DIGITS_CODE)
    write_bundle(server.volume / "house" / "7.b", None, HOUSE, predictor__py=HOUSE_CODE)
    write_bundle(server.volume / "free" / "1", {"a": 1.0})
    server.desire(("digits", "1"), ("house", "7.b"), ("free", "1"))


@pytest.fixture(scope="module", name="filled")
def filled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("openapi"))
    fill(server)
    server.start()
    for name in ("digits", "house", "free"):
        server.wait_for(name, "ready")
    yield server
    server.stop()


def config_of(text: str) -> ModelConfig:
    return parse_model_config(text.encode(), "model.yaml")


def test_every_route_is_described_and_nothing_else() -> None:
    """Every URL and method of the app has its description, and every described one leads to a route."""
    app = Flask("openapi", static_folder=None)
    routes.register(app)
    exist = openapi.routes_of(app.url_map)
    paths = openapi.document(exist, [Described("m", "1", config_of(DIGITS)), Described("n", "2", None)])["paths"]
    urls = app.url_map.bind("host")
    described = {
        (urls.match(path, method.upper(), return_rule=True)[0].rule, method.upper())
        for path, operations in paths.items()
        for method in operations
    }
    assert described == {(route.rule, route.method) for route in exist}
    assert {"/v2/models/m/versions/1/infer", "/v2/models/n/versions/2/infer"} <= paths.keys()


def test_every_refusal_is_described() -> None:
    """Each status that the server's errors have is in the document, and asking a model lists those that it can meet."""
    statuses = {
        kind.status for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServingError)
    }
    assert statuses == openapi.REASONS.keys()
    login = {401, 429}
    assert statuses - login == set(openapi.OPERATIONS["v2_infer"].errors)


@pytest.mark.parametrize(
    ("config", "body", "fits"),
    [
        (DIGITS, {"instances": [[1, 2, 3, 4.5]]}, True),
        (DIGITS, {"instances": [{"pixels": [1, 2, 3, 4]}]}, True),
        (DIGITS, {"instances": [{"pixels": [1, 2, 3, 4]}, [1, 2, 3, 4]]}, False),
        (DIGITS, {"instances": [[1, 2, 3]]}, False),
        (DIGITS, {"instances": [[1, 2, 3, True]]}, False),
        (DIGITS, {"instances": [[1, 2, 3, None]]}, False),
        (DIGITS, {"instances": []}, False),
        (DIGITS, {}, False),
        (HOUSE, {"instances": [{"rooms": 255, "street": "a", "new": True}], "more": 1}, True),
        (HOUSE, {"instances": [{"rooms": 256, "street": "a", "new": True}]}, False),
        (HOUSE, {"instances": [{"rooms": 1, "street": "a"}]}, False),
        (HOUSE, {"instances": [{"rooms": 1, "street": "a", "new": True, "old": False}]}, False),
        (HOUSE, {"instances": [[1, "a", True], [2, "b", False]]}, True),
        (COLUMNS, {"instances": [{"height": 1, "age": 2}]}, True),
        (COLUMNS, {"instances": [{"x": [1, 2]}, {"x": [1, 2]}]}, True),
        (COLUMNS, {"instances": [{"height": 1}]}, False),
        (COLUMNS, {"instances": [[1, 2.5]]}, False),
        (COLUMNS, {"instances": [[1, 2.0]]}, True),
        ("", {"instances": ["anything"]}, True),
        ("", {"instances": "anything"}, False),
    ],
)
def test_row_schemas_and_the_server_agree(config: str, body: Any, fits: bool) -> None:
    """A V1 body fits its schema exactly where the server takes it, and so does the short form that it is."""
    wanted = config_of(config)
    assert is_valid(body, schemas.rows_request(wanted)) == fits
    assert is_taken(lambda: decode_instances(body, wanted)) == fits
    assert is_valid(body, schemas.short_request(wanted)) == fits
    if fits and len(body) == 1:
        own = {wanted.question.many: body["instances"]}
        for short in (
            own,
            {**own, "more": 1},
            {wanted.question.one: body["instances"][0]},
            {"instance": body["instances"][0]},
            {**body, "instance": 1},
            body["instances"][0],
            {"instance": 1, "b": 2},
        ):
            taken = is_taken(lambda short=short: decode_short(short, wanted))
            assert is_valid(short, schemas.short_request(wanted)) == taken, short


@pytest.mark.parametrize(
    ("config", "change", "fits"),
    [
        (DIGITS, {}, True),
        (DIGITS, {"data": [[1, 2, 3, 4]]}, True),
        (DIGITS, {"parameters": {"a": 1}}, True),
        (DIGITS, {"datatype": "FP32"}, False),
        (DIGITS, {"name": "x"}, False),
        (DIGITS, {"shape": [1, 5]}, False),
        (DIGITS, {"shape": [4]}, False),
        (DIGITS, {"shape": [0, 4], "data": []}, False),
        (DIGITS, {"data": ["1", "2", "3", "4"]}, False),
        (DIGITS, {"data": None}, False),
    ],
)
def test_infer_schemas_and_the_server_agree(config: str, change: dict[str, Any], fits: bool) -> None:
    """A v2 body fits its schema exactly where the server takes it."""
    wanted = config_of(config)
    tensor = {"name": "pixels", "datatype": "FP64", "shape": [1, 4], "data": [1, 2, 3, 4]}
    body = {"inputs": [{**tensor, **change}]}
    assert is_valid(body, schemas.infer_request(wanted)) == fits
    assert is_taken(lambda: decode_infer(json.dumps(body).encode(), wanted)) == fits


@pytest.mark.parametrize("config", [DIGITS, HOUSE, COLUMNS, "inputs: [{name: i, datatype: FP32, shape: [2, 8, 8, 3]}]"])
def test_examples_are_taken(config: str) -> None:
    """The document's examples fit their schemas, and the server takes them."""
    wanted = config_of(config)
    rows, infer = schemas.rows_example(wanted), schemas.infer_example(wanted)
    assert is_valid(rows, schemas.rows_request(wanted))
    assert is_valid(rows, schemas.short_request(wanted))
    assert is_valid(infer, schemas.infer_request(wanted))
    assert decode_instances(rows, wanted)
    assert decode_infer(json.dumps(infer).encode(), wanted).inputs


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


def is_taken(decode: Any) -> bool:
    try:
        decode()
    except InvalidRequest:
        return False
    return True


def test_the_document_follows_the_models(server: Server) -> None:
    """A model that is not there yet is described by its paths alone; once it is loaded, by what it declares."""
    server.desire(("digits", "1"))
    server.start()
    server.wait_for("digits", "waiting")
    path = "/v1/models/digits:predict"
    before = document(server)
    assert before["tags"][0]["x-pantry-model"] == {"version": "1", "loaded": False}
    assert "image/png" not in before["paths"][path]["post"]["requestBody"]["content"]
    write_bundle(server.volume / "digits" / ".staging" / "1", None, DIGITS, predictor__py=DIGITS_CODE)
    (server.volume / "digits" / ".staging" / "1").rename(server.volume / "digits" / "1")
    server.wait_for("digits", "ready")
    after = document(server)
    assert after["tags"][0]["x-pantry-model"]["inputs"][0]["name"] == "pixels"
    assert "image/png" in after["paths"][path]["post"]["requestBody"]["content"]
    row = after["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert row["properties"]["predictions"]["items"] == {"enum": ["zero", "one"]}


def document(server: Server) -> dict[str, Any]:
    answer = requests.get(f"{server.url}/openapi.json", timeout=20)
    assert answer.status_code == 200
    return dict(answer.json())


def test_it_is_revalidated_not_sent_again(filled: Server) -> None:
    """Who has it already is answered with 304."""
    url = f"{filled.url}/openapi.json"
    first = requests.get(url, timeout=20)
    again = requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=20)
    assert (again.status_code, again.content, first.headers["Cache-Control"]) == (304, b"", "no-cache")


def test_a_fuzzer_finds_nothing(filled: Server, tmp_path: Path) -> None:
    """Schemathesis, all checks on: no 5xx, no answer beside its schema, nothing valid refused or invalid taken."""
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    done = fuzz(filled, tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (generated,) = [
        int(line.split()[0]) for line in done.stdout.splitlines() if line.strip().split()[1:2] == ["generated,"]
    ]
    assert generated >= 300


def test_with_access_restricted_it_says_so(server: Server, tmp_path: Path) -> None:
    """Who has no token learns no model's name; with one, the document says what is open, and a fuzzer agrees."""
    token = "t" * 40
    (tmp_path / "tokens").write_text(token)
    fill(server)
    server.start(access="tokens", tokens_file=str(tmp_path / "tokens"))
    server.wait_for("free", "ready")
    refused = requests.get(f"{server.url}/openapi.json", timeout=20)
    assert (refused.status_code, "digits" in refused.text) == (401, False)
    bearer = {"Authorization": f"Bearer {token}"}
    described = requests.get(f"{server.url}/openapi.json", headers=bearer, timeout=20).json()
    gets = {path: item["get"] for path, item in described["paths"].items() if "get" in item}
    assert {path for path, get in gets.items() if {"token": []} not in get.get("security", [])} == OPEN_PATHS
    (tmp_path / "schemathesis.toml").write_text(f'seed = 5\nheaders = {{ Authorization = "Bearer {token}" }}\n')
    done = fuzz(server, tmp_path, "--include-method", "GET")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# No schema says that data fills its shape, nor what a model takes that declares nothing.
CONFIG = """\
seed = 5
[generation]
deterministic = true
database = "none"
[[operations]]
include-path-regex = "/infer$|/free[:/]"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400]
"""


def fuzz(server: Server, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml")),
            *(
                "run",
                f"{server.url}/openapi.json",
                "--max-examples",
                "8",
                "--phases",
                "examples,coverage,fuzzing",
                "--no-color",
                *options,
            ),
        ],
        cwd=folder,
        env={
            **os.environ,
            "NO_PROXY": "*",
            "SCHEMATHESIS_HOOKS": "tests.fuzz_bodies",
            "PYTHONPATH": f"{ROOT}:{ROOT}/image",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
