"""examples/skipthoughts: sentences become the vectors that a reference computes, from files of Python 2's day."""

from __future__ import annotations

import importlib.util
import itertools
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from loader.bundle.bundle import Bundle
from loader.publish import describe
from serving.models.model import Model, load_model
from tests.examples import ROOT, Example
from tests.helm import read, render
from tests.serve import Server, wait_until
from tests.sources import published, write_files

pytestmark = pytest.mark.timeout(900)  # the first time, Theano compiles some sixty operations

SENTENCES = [
    "the data were collected in Italy , by chemical analysis .",
    "café",
    "a word that nobody knows: syzygetic",
    "",
    "the mean radius, texture and perimeter of each image are features of the nuclei " * 3,
]
REAL = 930_000  # words

Array = np.ndarray[Any, np.dtype[Any]]


def build_script() -> Any:
    path = ROOT / "examples/skipthoughts/build.py"
    spec = importlib.util.spec_from_file_location("skipthoughts_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", name="example")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Version 1, published: compiled functions where there is Theano, or else weights."""
    example = Example("skipthoughts", tmp_path_factory.mktemp("skipthoughts"))
    example.publish()
    return example


@pytest.fixture(scope="module", name="server")
def serving(example: Example) -> Iterator[Server]:
    """Started before its model is there, as in a cluster; it serves as values.yaml says, with two workers."""
    server = example.server()
    server.desire({"name": "skipthoughts", "version": "1", "storageUri": example.uri("1")})
    server.start(**{**example.settings(server), "workers": 2, "drain_seconds": 4})
    early = wait_until(lambda: requests.get(f"{server.url}/healthz", timeout=20), "an answer")
    assert (early.status_code, list(early.json())) == (503, ["error"])
    example.sync(server)
    server.wait_for("skipthoughts", "ready", seconds=200)
    yield server
    server.stop()


def reference(sentences: list[str], kinds: list[str] | None = None, version: int = 1) -> Array:
    """The vectors, in double precision, of one sentence and one word after the other."""
    build = build_script()
    names = build.words(2000)
    numbers = {word: number for number, word in enumerate(names)}
    parts = []
    for place, kind in enumerate(kinds or ["uni", "bi"]):
        table = list(build.vectors(len(names), seed=version * 10 + place))
        weights = {key: value.astype(np.float64) for key, value in build.weights(kind, version).items()}
        found = []
        for sentence in sentences:
            tokens = re.findall(r"[\w'-]+|[^\w\s]", sentence) or ["<eos>"]
            xs = [table[numbers.get(token, numbers["UNK"])].astype(np.float64) for token in tokens]
            states = [last_state(xs, weights, "")]
            if kind == "bi":
                states.append(last_state(xs[::-1], weights, "_r"))
            state = np.concatenate(states)
            found.append(state / np.sqrt((state**2).sum()))
        parts.append(np.array(found))
    return np.concatenate(parts, axis=1)


def last_state(xs: list[Array], weights: dict[str, Array], end: str) -> Array:
    w, b, u, wx, bx, ux = (weights[f"encoder_{key}{end}"] for key in ("W", "b", "U", "Wx", "bx", "Ux"))
    h = np.zeros(len(ux))
    for x in xs:
        reset, update = np.split(1 / (1 + np.exp(-(h @ u + x @ w + b))), 2)
        h = update * h + (1 - update) * np.tanh(reset * (h @ ux) + x @ wx + bx)
    return h


def test_the_health_page_is_the_clients(server: Server) -> None:
    """GET /healthz answers as the hand-made service did, once it can answer (the fixture saw 503 before)."""
    answer = requests.get(f"{server.url}/healthz", timeout=20)
    assert (answer.status_code, answer.json()) == (200, {"code": "200", "message": "Ok"})


def test_sentences_become_vectors(server: Server) -> None:
    """POST /predict {"sentences": […]} gives 4,800 numbers for each, equal to the reference to 1e-5."""
    answer = server.post("/predict", json={"sentences": SENTENCES})
    assert (answer.status_code, list(answer.json())) == (200, ["vectors"])
    got = np.array(answer.json()["vectors"])
    assert got.shape == (len(SENTENCES), 4800)
    np.testing.assert_allclose(got, reference(SENTENCES), rtol=0, atol=1e-5)


def test_a_sentence_does_not_depend_on_the_others(server: Server) -> None:
    """A short sentence has the same vector alone and beside a long one, with which it is computed."""
    alone = server.post("/predict", json={"sentence": SENTENCES[1]}).json()["vector"]
    beside = server.post("/predict", json={"sentences": SENTENCES}).json()["vectors"][1]
    np.testing.assert_allclose(alone, beside, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["uni", "bi"])
def test_one_encoder_of_weights(tmp_path: Path, kind: str) -> None:
    """A bundle with one encoder answers 2,400 numbers; of weights, numpy computes them, without Theano."""
    example = Example("skipthoughts", tmp_path)
    source = example.publish(build=["--encoders", kind, "--form", "weights"])
    got = ask(load(source), SENTENCES)
    assert got.shape == (len(SENTENCES), 2400)
    np.testing.assert_allclose(got, reference(SENTENCES, [kind]), rtol=0, atol=1e-5)


def load(directory: Path) -> Model:
    manifest, _ = describe(directory)
    return load_model("skipthoughts", "1", Bundle(directory, manifest, manifest.digest), print)


def ask(model: Model, sentences: list[str]) -> Array:
    return model.predict({"text": np.array(sentences, object)})["vector"]


def test_the_files_are_of_python_2(example: Example) -> None:
    """Every pickle and table is of protocol 2, and has its texts as Python 2 wrote them."""
    source = example.home / "source-1"
    files = [*source.glob("*.pkl"), *source.glob("*.npy")]
    assert len(files) == 5
    for file in files:
        with file.open("rb") as stream:
            if file.suffix == ".npy":
                stream.seek(10 + int.from_bytes(stream.read(10)[8:], "little"))
            opcodes = [(opcode.name, value) for opcode, value, _ in itertools.islice(pickletools.genops(stream), 5000)]
        names = {name for name, _ in opcodes}
        assert opcodes[0] == ("PROTO", 2)
        assert names & {"BINSTRING", "SHORT_BINSTRING"}, file.name
        assert not names & {"BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "FRAME"}, file.name


def test_the_tables_are_packed(example: Example) -> None:
    """The word tables load from a pack; the pickles are what the pack's record says, each with a reason."""
    record = Bundle.open(example.home / "bucket/skipthoughts/1").pack_record()
    forms = {pickle.path: pickle.form for pickle in record.pickles}
    assert (forms["utable.npy"], forms["btable.npy"]) == ("columns", "columns")
    assert all(pickle.pack or pickle.reason for pickle in record.pickles)


@pytest.mark.parametrize("writer", ["theano-0.9.0-py2.7", "theano-1.0.5-py2.7"])
def test_a_table_that_python_2_saved(tmp_path: Path, writer: str) -> None:
    """`bundle.load` reads an object array of numpy on Python 2, as `numpy.load` does."""
    path = ROOT / "tests/pickles" / writer / "utable.npy"
    write_files(tmp_path, published({"utable.npy": path.read_bytes()}, 1000))
    found = Bundle.open(tmp_path).load("utable.npy")
    assert isinstance(found, np.ndarray)
    expected = np.load(path, allow_pickle=True, encoding="latin1")
    assert found.shape == expected.shape == (50,)
    assert all((mine == theirs).all() for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_table_of_numbers(tmp_path: Path, order: Any) -> None:
    """`bundle.load` reads a plain .npy file, too."""
    table = np.arange(12.0).reshape(3, 4, order=order)
    np.save(tmp_path / "t.npy", table)
    write_files(tmp_path / "bundle", published({"t.npy": (tmp_path / "t.npy").read_bytes()}, 50))
    found = Bundle.open(tmp_path / "bundle").load("t.npy")
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, table)


def test_the_values_ask_for_what_the_table_needs() -> None:
    """High-memory nodes, a reserved address and an uploaded certificate; with values-gpu.yaml, a GPU and its pool."""
    folder = ROOT / "examples/skipthoughts"
    values = read(folder / "values.yaml")
    objects = render(values, name="skipthoughts")
    (ingress,) = (one for one in objects if one["kind"] == "Ingress")
    assert (
        ingress["metadata"]["annotations"].items()
        >= {
            "kubernetes.io/ingress.global-static-ip-name": "skipthoughts-ip",
            "ingress.gcp.kubernetes.io/pre-shared-cert": "skipthoughts-cert",
        }.items()
    )
    assert pod_of(objects)["nodeSelector"] == {"cloud.google.com/gke-nodepool": "highmem"}
    more = read(folder / "values-gpu.yaml")
    pod = pod_of(render({**values, **more, "gke": {**values["gke"], **more["gke"]}}, name="skipthoughts"))
    assert pod["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-l4"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" in [toleration["key"] for toleration in pod["tolerations"]]


def pod_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (pod,) = (one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment")
    return dict(pod)


@pytest.mark.big
@pytest.mark.timeout(1800)
def test_the_real_size(tmp_path: Path) -> None:
    """A table of 930,000 words, 2.3 GB, is made, published, synced and served, and answers as the reference."""
    example = Example("skipthoughts", tmp_path)
    source = example.publish(build=["--encoders", "uni", "--words", str(REAL)])
    assert (source / "utable.npy").stat().st_size > 2.3e9
    server = example.server()
    example.sync(server)
    server.start(workers=4)
    try:
        server.wait_for("skipthoughts", "ready", seconds=300)
        got = np.array(server.post("/predict", json={"sentences": SENTENCES}).json()["vectors"])
        np.testing.assert_allclose(got, reference(SENTENCES, ["uni"]), rtol=0, atol=1e-5)
        copies = re.search(r"^pantry_model_copies (\S+)", server.admin("/metrics").text, re.MULTILINE)
        assert copies is not None
        assert float(copies[1]) < 1.5
    finally:
        server.stop()
