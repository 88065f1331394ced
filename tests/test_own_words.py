"""The words that a model's author chooses, so that clients of an older service need no change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.conftest import write_bundle
from tests.model_kinds import Doubler
from tests.serve import Server

CONFIG = """\
inputs: [{name: x, datatype: FP64, shape: [-1, 2], columns: [a, b]}]
question: {many: rows}
answer: {many: doubles, error: {status: error, code: 7}}
alive: {/: I'M ALIVE!, /healthz: {code: "200"}}
"""


@pytest.fixture(scope="module", name="speaker")
def serving_own_words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("words"))
    write_bundle(server.volume / "m" / "1", Doubler(), CONFIG)
    write_bundle(server.volume / "other" / "1", Doubler(), "alive: {/: nobody asks me}")
    server.desire(("m", "1"), ("other", "1"))
    server.start()
    server.wait_for("m", "ready")
    server.wait_for("other", "ready")
    yield server
    server.stop()


def test_rows_and_answers_have_the_models_names(speaker: Server) -> None:
    """A client sends and gets the names it knows."""
    assert speaker.post("/prediction", json={"rows": [[1, 2]]}).json() == {"doubles": [[2.0, 4.0]]}


def test_errors_of_the_short_forms_say_more(speaker: Server) -> None:
    """Beside the sentence they have the author's keys, whichever way the server answers; other forms do not."""
    small, chunked = speaker.post("/predict", json={"a": 1}), speaker.post("/predict", data=iter([b'{"a"', b": 1}"]))
    for answer in (small, chunked):
        assert answer.status_code == 400
        assert answer.json() == {"status": "error", "code": 7, "error": "column 'b' is missing"}
    v1 = speaker.post("/v1/models/m:predict", json={"instances": []})
    assert v1.json() == {"error": "instances is empty, expected at least one"}


def test_pages_say_what_the_default_model_lets_them(speaker: Server) -> None:
    """A text is answered as plain text, an object as JSON, once the model can answer."""
    home, health = (requests.get(f"{speaker.url}{path}", timeout=20) for path in ("/", "/healthz"))
    assert (home.status_code, home.text, home.headers["Content-Type"]) == (
        200,
        "I'M ALIVE!",
        "text/plain; charset=utf-8",
    )
    assert (health.status_code, health.json()) == (200, {"code": "200"})


def test_pages_say_nothing_else_before_the_model_can_answer(server: Server) -> None:
    """Until then / lists where the models are, and /healthz is 503."""
    server.desire(("m", "1"))
    server.start()
    server.wait_for("m", "waiting")
    home, health = (requests.get(f"{server.url}{path}", timeout=20) for path in ("/", "/healthz"))
    assert (home.status_code, home.json()["models"][0]["phase"]) == (200, "waiting")
    assert health.status_code == 503
    write_bundle(server.volume / "m" / ".staging" / "1", Doubler(), CONFIG)
    (server.volume / "m" / ".staging" / "1").rename(server.volume / "m" / "1")
    server.wait_for("m", "ready")
    assert requests.get(f"{server.url}/", timeout=20).text == "I'M ALIVE!"
