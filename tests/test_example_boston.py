"""examples/boston: the same answers to the same client, five workers with one copy, and what is wrong is named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import helm
from tests.examples import ROOT, Example
from tests.serve import Server, wait_until

DISTRICT = {
    "CRIM": 15.02, "ZN": 0.0, "INDUS": 18.1, "CHAS": 0.0, "NOX": 0.614, "RM": 5.3, "AGE": 97.3, "DIS": 2.1, "RAD": 24.0,
    "TAX": 666.0, "PTRATIO": 20.2, "B": 349.48, "LSTAT": 24.9,
}  # fmt: skip
PRICE = 12.2748


@pytest.fixture(scope="module", name="boston")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    example = Example("boston", tmp_path_factory.mktemp("boston"))
    example.publish("1")
    example.publish("2", ["--version", "2"])
    return example


@pytest.fixture(scope="module", name="served")
def serving(boston: Example) -> Iterator[Server]:
    server = boston.server()
    boston.sync(server)
    boston.start(server)
    yield server
    server.stop()


def ask(server: Server, row: Any) -> tuple[int, Any]:
    answer = server.post("/predict", json=row)
    return answer.status_code, answer.json()


def test_it_says_that_it_is_alive(served: Server) -> None:
    """GET / answers as the hand-made service does."""
    answer = requests.get(f"{served.url}/", timeout=20)
    assert (answer.status_code, answer.text) == (200, "I'M ALIVE!")


def test_a_price_is_answered_in_any_order_of_columns(served: Server) -> None:
    """Column names decide, not their order; the mask takes what it needs."""
    for row in (DISTRICT, dict(reversed(DISTRICT.items())), dict(sorted(DISTRICT.items()))):
        status, answer = ask(served, row)
        assert (status, list(answer)) == (200, ["prediction"])
        assert answer["prediction"] == pytest.approx(PRICE, rel=1e-4)
    masked = ask(served, {**DISTRICT, "B": 0.0, "AGE": 1.0})[1]
    assert masked["prediction"] == pytest.approx(PRICE, rel=1e-4)
    assert ask(served, {**DISTRICT, "LSTAT": 5.0})[1]["prediction"] > PRICE + 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ZN": ...}, "column 'ZN' is missing"),
        ({"ZN": ..., "CHAS": ..., "TAX": ...}, "columns 'ZN', 'CHAS', 'TAX' are missing"),
        ({"MEDV": 12.0}, "column 'MEDV' is unknown; the model takes " + ", ".join(DISTRICT)),
        ({"B": ..., "BLACK": 1.0}, "column 'B' is missing; column 'BLACK' is unknown; the model takes"),
        ({"RM": "five"}, "column 'RM': expected FP64, got texts"),
        (
            {"RM": "5.3", "AGE": True},
            "column 'RM': expected FP64, got texts; column 'AGE': expected FP64, got booleans",
        ),
        ({"LSTAT": None}, "column 'LSTAT': expected numbers, or texts, or booleans; got null"),
        ({"LSTAT": [24.9]}, "column 'LSTAT': expected shape [-1], got [1, 1]"),
    ],
)
def test_missing_extra_and_non_numeric_columns_are_named(served: Server, change: dict[str, Any], sentence: str) -> None:
    """400 with {"status": "error", "error": …}, whose sentence has every column that is wrong."""
    row = {name: value for name, value in {**DISTRICT, **change}.items() if value is not ...}
    status, answer = ask(served, row)
    assert (status, answer["status"]) == (400, "error")
    assert answer["error"].startswith(sentence)
    assert answer.keys() == {"status", "error"}


@pytest.mark.parametrize("body", ["", "{", "[1, 2]", '{"CRIM": NaN}', "{}"])
def test_what_is_no_row_is_an_error_in_the_same_form(served: Server, body: str) -> None:
    """Not only wrong columns: every error has the keys that this client reads."""
    answer = served.post("/predict", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == (400, "error")


def test_five_workers_share_one_copy(served: Server, boston: Example) -> None:
    """/metrics tells of five workers, which together take little more than one process would."""
    assert boston.settings(served)["workers"] == "5"

    def told() -> dict[str, float] | None:
        found = {
            sample.name: sample.value
            for family in text_string_to_metric_families(served.admin("/metrics").text)
            for sample in family.samples
        }
        return found if found["pantry_workers"] == 5 else None

    found = wait_until(told, "five workers to be told", 20)
    assert 0.8 < found["pantry_model_copies"] < 2.0


@pytest.mark.skipif(not shutil.which("curl"), reason="the README's clients are curl, and curl is not installed")
def test_the_readme_shows_what_is_answered(served: Server, boston: Example) -> None:
    """Every curl command of the README answers what is beneath it; numbers to four digits."""
    shown = re.findall(r"^\$ (curl .*)\n(.*)$", (boston.folder / "README.md").read_text(), re.MULTILINE)
    assert len(shown) >= 3
    for command, expected in shown:
        words = shlex.split(command.replace("http://localhost:8080", served.url))
        done = subprocess.run([*words, "--silent", "--noproxy", "*"], capture_output=True, text=True, check=True)
        assert rounded(done.stdout) == rounded(expected), command


def rounded(text: str) -> str:
    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.4g}", text.strip())


def test_a_new_model_is_swapped_in(boston: Example) -> None:
    """Version 2, another kind of model, answers at the same address; going back to 1 moves nothing."""
    server = boston.server("swap")
    boston.sync(server)
    boston.start(server)
    try:
        for version, wanted in (("2", 12.1623), ("1", PRICE)):
            boston.sync(server, version)
            server.wait_for("boston", "ready", version)
            assert ask(server, DISTRICT)[1]["prediction"] == pytest.approx(wanted, rel=1e-4)
    finally:
        server.stop()


def test_who_can_write_the_bucket_cannot_change_a_pinned_version(boston: Example, tmp_path: Path) -> None:
    """A whole other bundle under the same prefix is refused by the digest in the values; the server's volume stays."""
    uri, server = f"file://{tmp_path}/bucket", boston.server("attacked")
    shutil.copytree(boston.home / "bucket/boston/1", tmp_path / "bucket")
    digest = f"sha256:{hashlib.sha256((tmp_path / 'bucket/manifest.json').read_bytes()).hexdigest()}"
    shutil.rmtree(tmp_path / "bucket")
    shutil.copytree(boston.home / "bucket/boston/2", tmp_path / "bucket")
    server.desire({"name": "boston", "version": "1", "storageUri": uri, "digest": digest})
    files = ["--models", f"{server.volume.parent}/models.yaml", "--volume", str(server.volume)]
    done = subprocess.run(
        [sys.executable, "-m", "loader.cli", "sync", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"models.yaml pins {digest}, got sha256:" in done.stdout + done.stderr
    assert not (server.volume / "boston/1").exists()


def test_the_hand_made_service_answers_alike(served: Server, boston: Example) -> None:
    """handmade.py, for which the client was written and which the README compares with, answers the client the same."""
    client = """
import json, sys
from handmade import app
client, row = app.test_client(), json.loads(sys.argv[1])
del row["B"]
wrong = client.post("/predict", json=row)
right = client.post("/predict", json=json.loads(sys.argv[1]))
print(json.dumps([client.get("/").text, right.json, wrong.status_code, wrong.json["status"], list(wrong.json)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", client, json.dumps(DISTRICT)],
        cwd=boston.folder,
        env={**os.environ, "MODEL": str(boston.home / "source-1/model.pkl")},
        capture_output=True,
        text=True,
        check=True,
    )
    alive, right, status, word, keys = json.loads(done.stdout)
    assert alive == requests.get(f"{served.url}/", timeout=20).text
    assert right["prediction"] == pytest.approx(ask(served, DISTRICT)[1]["prediction"], rel=1e-4)
    code, wrong = ask(served, {name: value for name, value in DISTRICT.items() if name != "B"})
    assert (status, word, sorted(keys)) == (code, wrong["status"], sorted(wrong))


def test_cloud_build_publishes_and_releases_what_it_published(tmp_path: Path, boston: Example) -> None:
    """The model step, run here, fills the prefix that the release step gives the chart; nothing builds an image."""
    build = yaml.safe_load((boston.folder / "cloudbuild.yaml").read_text())
    steps = {step["id"]: step for step in build["steps"]}
    assert list(steps) == ["model", "helm", "release"]
    said = {**build["substitutions"], "SHORT_SHA": "5f3a4cb", "_MODELS": f"file://{tmp_path}/models"}
    checkout = tmp_path / "checkout"
    (checkout / "examples").mkdir(parents=True)
    shutil.copytree(boston.folder, checkout / "examples/boston")
    environ = {**os.environ, **said, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", steps["model"]["script"]], cwd=checkout, env=environ, check=True)
    published = tmp_path / "models/boston/5f3a4cb"
    assert (published / "manifest.json").exists()
    (command,) = re.findall(r"^\./helm upgrade .*", steps["release"]["script"].replace("\\\n", ""), re.MULTILINE)
    words = shlex.split(re.sub(r"\$(\w+)", lambda name: said[name[1]], command))
    sets = dict(words[place + 1].split("=", 1) for place, word in enumerate(words) if word.startswith("--set"))
    values = helm.read(ROOT / words[words.index("--values") + 1])
    values["models"][0] |= {"version": sets["models[0].version"], "storageUri": sets["models[0].storageUri"]}
    rendered = helm.render(helm.changed(values, {"image.repository": sets["image.repository"]}), name=words[3])
    assert str(published) in json.dumps(rendered)
