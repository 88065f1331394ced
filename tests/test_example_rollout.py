"""examples/rollout: the client counts two versions and no failure, and the README's commands render what it says."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest

from tests import helm
from tests.examples import ROOT, Example
from tests.helm import Object, Values, component, named, one, read
from tests.serve import Server, free_port, wait_until

FOLDER = ROOT / "examples/rollout"
README = (FOLDER / "README.md").read_text()
BY_HAND, SWAP, STEPS, A_B = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", name="rollout")
def made(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example("rollout", tmp_path_factory.mktemp("rollout"))


@pytest.fixture(scope="module", name="served")
def serving(rollout: Example) -> Iterator[Server]:
    """A server of what the README's commands make, all but the last, which starts one."""
    server = Server(rollout.home)
    *commands, last = BY_HAND.splitlines()
    assert last == "pantry-serve --models /tmp/pantry-rollout/models.yaml --volume /tmp/pantry-rollout/volume"
    shell("\n".join(commands), rollout)
    rollout.start(server)
    yield server
    server.stop()


def shell(commands: str, rollout: Example) -> None:
    """Run commands of the README with the test's directory in place of theirs."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands = commands.replace("/tmp/pantry-rollout", str(rollout.home))
    subprocess.run(["bash", "-euc", commands], cwd=ROOT, env=environment, check=True)


def client(*arguments: str) -> subprocess.Popen[str]:
    """The example's client, as a process of its own."""
    command = [sys.executable, str(FOLDER / "client.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def counts(line: str) -> Counter[str]:
    """What a line of the client says: answers by version, and `failed`."""
    return Counter({what: int(count) for what, count in re.findall(r"(?:version )?(\w+): (\d+)", line)})


def test_the_client_meets_both_versions_and_no_failure(served: Server, rollout: Example) -> None:
    """From 1 to 2 and back by the README's commands: one after the other answers, and no request fails."""
    back = re.findall(r"`(s/\"2\".*?)` leads back", README)
    asking = client(served.url)
    try:
        for version, commands in (("2", SWAP), ("1", re.sub(r"'s/.*'", f"'{back[0]}'", SWAP))):
            shell(commands, rollout)
            served.wait_for("rollout", "ready", version)
            wait_until(functools.partial(says, served, version), f"version {version} to answer")
    finally:
        asking.send_signal(signal.SIGINT)
        told = asking.communicate(timeout=30)[0]
    *seconds, total = told.splitlines()
    assert asking.returncode == 0, told
    assert total.startswith("in all ")
    assert counts(total)["failed"] == 0
    assert min(counts(total)["1"], counts(total)["2"]) > 10, told
    assert sum(map(counts, seconds), Counter()) <= counts(total)


def says(server: Server, version: str) -> bool:
    """Tell whether this is the version that an answer names."""
    return bool(server.post("/v2/models/rollout/infer", json=question()).json()["model_version"] == version)


def question() -> Any:
    """What the client asks."""
    code = "import json, client; print(json.dumps(client.FLOWER))"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_client_says_what_failed() -> None:
    """Where nobody listens, its exit status is 1, and the reason is beside the count."""
    asking = client(f"http://127.0.0.1:{free_port()}", "--seconds", "0.5", "--connections", "1")
    total = asking.communicate(timeout=30)[0].splitlines()[-1]
    assert asking.returncode == 1
    assert counts(total)["failed"] > 0
    assert "Connection refused" in total


def test_the_hand_made_service_answers_alike(served: Server, rollout: Example) -> None:
    """handmade.py, which the README compares with, answers the client the same."""
    code = """
import client, json
from handmade import app
print(json.dumps(app.test_client().post(client.PATH, json=client.FLOWER).json))
"""
    environment = {**os.environ, "MODEL": str(rollout.home / "source/1/model.pkl")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == served.post("/v2/models/rollout/versions/1/infer", json=question()).json()


def commands(block: str) -> list[str]:
    """The helm commands of a block, each on one line."""
    return re.findall(r"^helm .*", block.replace("\\\n", ""), re.MULTILINE)


def values(command: str) -> Values:
    """The values that a helm command passes, as Helm reads them."""
    found: Values = {}
    words = shlex.split(command)
    for flag, value in itertools.pairwise(words):
        if flag == "-f":
            found = merged(found, read(FOLDER / value))
        elif flag == "--set-string":
            found = merged(found, helm_python.parse_set_string_values(value))
        elif flag == "--set":
            found = merged(found, helm_python.parse_set_string(value))
    return found


def merged(under: Any, over: Any) -> Any:
    """Merge as Helm does; --set changes an entry of a list, and these lists have one."""
    if isinstance(under, dict) and isinstance(over, dict):
        return {key: merged(under.get(key), over.get(key, under.get(key))) for key in {**under, **over}}
    if isinstance(under, list) and isinstance(over, list):
        return [merged(entry, change) for entry, change in zip(under, over, strict=True)]
    return over


def rendered(command: str) -> list[Object]:
    return helm.render(values(command), name="rollout")


def deployments(objects: list[Object]) -> dict[str, tuple[int, str]]:
    """Replicas of each server, and the version in its pods' own text: another one means new pods."""
    found = (thing for thing in objects if thing["kind"] == "Deployment" and component(thing) == "server")
    return {
        thing["metadata"]["name"]: (
            thing["spec"]["replicas"],
            re.findall(r'version: "(.)"', thing["spec"]["template"]["metadata"]["annotations"]["pantry/models.yaml"])[
                0
            ],
        )
        for thing in found
    }


def test_each_step_renders_what_the_readme_says() -> None:
    """Two pods of 1; two new ones of 2; one of 2 beside them; after the promotion what the upgrade to 2 renders."""
    install, upgrade, rollback, canary, promotion = commands(STEPS)
    assert deployments(rendered(install)) == {"rollout-pantry": (2, "1")}
    assert deployments(rendered(upgrade)) == {"rollout-pantry": (2, "2")}
    assert deployments(rendered(canary)) == {"rollout-pantry": (2, "1"), "rollout-pantry-canary": (1, "2")}
    assert rendered(promotion) == rendered(upgrade)
    assert shlex.split(rollback) == ["helm", "rollback", "rollout", "-n", "models"]
    assert {one(rendered(step), "Ingress")["spec"]["rules"][0]["host"] for step in (install, canary)} == {
        "models.example.com"
    }


def test_the_ab_test_weighs_the_tracks_behind_a_gateway() -> None:
    """Half and half by the route's weights, with pods as the canary has them, and no Ingress beside."""
    (command,) = commands(A_B)
    objects = rendered(command)
    (rule,) = one(objects, "HTTPRoute")["spec"]["rules"]
    assert {backend["name"]: backend["weight"] for backend in rule["backendRefs"]} == {
        "rollout-pantry-stable": 50,
        "rollout-pantry-canary": 50,
    }
    assert deployments(objects) == {"rollout-pantry": (2, "1"), "rollout-pantry-canary": (1, "2")}
    assert not [thing for thing in objects if thing["kind"] == "Ingress"]
    assert named(objects, "Service", "rollout-pantry-canary")
