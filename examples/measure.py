"""What a service takes that is written by hand, and what it takes on Pantry: the figures of the examples' READMEs.

python examples/measure.py boston
python examples/measure.py skipthoughts -- --words 200000     with further arguments of build.py

Both serve the same models, built here, with as many workers, to the same client, one after the other on this machine:
the hand-made one is the example's handmade.py, a Flask app in gunicorn that unpickles its model in every worker. Three
figures of each:

first answer   from the start of the process, with the model on the disk, to the first right answer
memory         of all its processes after 200 requests, pages that they share counted once (PSS)
a new model    what a client meets that asks all the time while version 1 becomes version 2: the hand-made service is
               stopped and started with the other file, Pantry is given another models.yaml
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

HERE = Path(__file__).resolve().parent
STARTS, REQUESTS, PATIENCE_SECONDS = 3, 200, 300
USER, PASSWORD = "alice", "correct horse battery staple"

DISTRICT = {"CRIM": 15.02, "ZN": 0.0, "INDUS": 18.1, "CHAS": 0.0, "NOX": 0.614, "RM": 5.3, "AGE": 97.3, "DIS": 2.1}
PERSON = [25, "Private", 226802, "11th", 7, "Never-married", "Machine-op-inspct", "Own-child", "Black", "Male", 0, 0]
FLOWER = {"name": "flower", "datatype": "FP64", "shape": [1, 4], "data": [5.9, 3.0, 5.1, 1.8]}


class Example(NamedTuple):
    """What its client asks.

    Attributes:
        path: of the URL.
        body: of the request.
        logs_in: the client has a password.
        file: of the example's folder, which is sent as a form does; then there is no body.
        models: what handmade.py is told of version 1 and of version 2.
    """

    path: str
    body: object
    logs_in: bool = False
    file: str = ""
    models: tuple[str, str] = ("model.pkl", "model.pkl")

    def content(self) -> tuple[bytes, str]:
        """The body that is sent, and its type."""
        if not self.file:
            return json.dumps(self.body).encode(), "application/json"
        head = f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{Path(self.file).name}"\r\n\r\n'
        return head.encode() + (HERE / self.file).read_bytes() + b"\r\n--XX--\r\n", "multipart/form-data; boundary=XX"


EXAMPLES = {
    "boston": Example("predict", DISTRICT | {"RAD": 24.0, "TAX": 666.0, "PTRATIO": 20.2, "B": 349.48, "LSTAT": 24.9}),
    "census": Example("prediction", {"inputs": [[*PERSON, 40, "United-States"]]}, logs_in=True),
    "mnist": Example("predict", None, file="mnist/7.png", models=("model.joblib", "model.pkl.gz")),
    "rollout": Example("v2/models/rollout/infer", {"inputs": [FLOWER]}),
    "skipthoughts": Example("predict", {"sentences": ["the data were collected in Italy ."]}, models=("", "")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an example beside the same service written by hand.")
    parser.add_argument("name", choices=EXAMPLES)
    parser.add_argument("build", nargs="*", help="further arguments of build.py, behind --")
    options = parser.parse_args()
    name = options.name
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="pantry-measure-") as home:
        for kind in (ByHand, OnPantry):
            service = kind(name, Path(home), options.build)
            firsts = [service.first_answer() for _ in range(STARTS)]
            with service.running():
                service.until_ready()
                memory = service.memory()
                failed, asked, gap = service.change()
            print(f"{kind.__name__}, {service.workers} workers; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
            print(f"  first answer   {statistics.median(firsts):.1f} s (median of {STARTS})")
            print(f"  memory         {memory / 2**20:.0f} MiB")
            print(f"  a new model    {failed} of {asked} requests failed; longest time without an answer {gap:.1f} s")


class Service(ABC):
    """One of the two, of one example; a subclass says how it is made and started."""

    def __init__(self, name: str, home: Path, build: list[str]) -> None:
        self.name, self.example, self.home = name, EXAMPLES[name], home
        self.values = yaml.safe_load((HERE / name / "values.yaml").read_text())
        self.workers, self.port, self.token = self.values["server"]["workers"], free_port(), ""
        self.process: subprocess.Popen[bytes] | None = None
        for version in ("1", "2"):
            if not (home / version).exists():
                run(sys.executable, str(HERE / name / "build.py"), str(home / version), "--version", version, *build)
        for secret in ("signing-secret", "tokens"):
            (home / secret).write_text(secrets.token_hex(32))

    @abstractmethod
    def start(self) -> None:
        """Start it, with the first version."""

    @abstractmethod
    def swap(self) -> None:
        """Bring the second version in."""

    def launch(self, command: list[str], **environment: str) -> None:
        with (self.home / "log").open("ab") as log:
            environ = {**os.environ, **environment}
            self.process = subprocess.Popen(command, cwd=HERE / self.name, env=environ, stdout=log, stderr=log)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_SECONDS)

    @contextlib.contextmanager
    def running(self) -> Iterator[float]:
        """Run it, and give the seconds to the first answer."""
        began = time.monotonic()
        self.start()
        try:
            self.until_answered()
            yield time.monotonic() - began
        finally:
            self.stop()

    def first_answer(self) -> float:
        with self.running() as seconds:
            return seconds

    def until_ready(self) -> None:
        """Wait until every worker answers; before, one may, as it did to give the first answer."""
        time.sleep(2)

    def memory(self) -> int:
        """Bytes."""
        for _ in range(REQUESTS):
            self.ask()
        assert self.process is not None
        return sum(map(pss, tree(self.process.pid)))

    def change(self) -> tuple[int, int, float]:
        """How many requests failed, how many there were, and the longest time in seconds without an answer."""
        done, answered, failed = threading.Event(), [time.monotonic()], [0]

        def client() -> None:
            while not done.is_set():
                try:
                    self.ask()
                    answered.append(time.monotonic())
                except OSError:
                    failed[0] += 1
                time.sleep(0.01)

        thread = threading.Thread(target=client)
        thread.start()
        try:
            time.sleep(1)
            self.swap()
            time.sleep(1)
        finally:
            done.set()
            thread.join()
        gaps = [later - earlier for earlier, later in itertools.pairwise(answered)]
        return failed[0], failed[0] + len(answered) - 1, max(gaps)

    def until_answered(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.ask()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def ask(self) -> None:
        """Ask as the example's client does, on a connection of its own; OSError where that fails."""
        if self.example.logs_in and not self.token:
            password = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            self.token = json.loads(self.get("login", None, f"Basic {password}"))["token"]
        self.get(self.example.path, self.example.content(), self.token)

    def get(self, path: str, content: tuple[bytes, str] | None, authorization: str) -> bytes:
        body, kind = content or (None, "application/json")
        headers = {"Content-Type": kind} | ({"Authorization": authorization} if authorization else {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"{path}: {error.code} {error.read().decode()}") from error


class ByHand(Service):
    """gunicorn with the example's handmade.py."""

    version = "1"

    def start(self) -> None:
        bind = ["--timeout", "300", "--workers", str(self.workers), "--bind", f"127.0.0.1:{self.port}"]
        model = self.home / self.version / self.example.models[int(self.version) - 1]
        environment = {"MODEL": str(model), "SECRET": f"{self.home}/signing-secret"}
        self.launch([sys.executable, "-m", "gunicorn", *bind, "handmade:app"], **environment)

    def swap(self) -> None:
        self.stop()
        self.version = "2"
        self.start()
        self.until_answered()


class OnPantry(Service):
    """pantry-serve, with what the example's values.yaml says."""

    def __init__(self, name: str, home: Path, build: list[str]) -> None:
        super().__init__(name, home, build)
        (home / "users").write_text(run("pantry-serve", "hash-password", USER, text=PASSWORD))
        for version in ("1", "2"):
            run("pantry", "publish", str(home / version), f"file://{home}/bucket/{version}")
        self.sync("1")

    def sync(self, version: str) -> None:
        model = {"name": self.name, "version": version, "storageUri": f"file://{self.home}/bucket/{version}"}
        (self.home / "models.yaml").write_text(json.dumps({"models": [model]}))
        run("pantry", "sync", "--models", f"{self.home}/models.yaml", "--volume", f"{self.home}/volume")

    def start(self) -> None:
        self.admin = free_port()
        files = ["--models", f"{self.home}/models.yaml", "--volume", f"{self.home}/volume"]
        ports = ["--bind", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}"]
        access = self.values.get("access", {}).get("mode", "off")
        environment = {"PANTRY_WORKERS": str(self.workers), "PANTRY_ACCESS": access}
        if access == "users":
            environment["PANTRY_USERS_FILE"] = f"{self.home}/users"
            environment["PANTRY_SIGNING_SECRET_FILE"] = f"{self.home}/signing-secret"
        if access == "tokens":
            environment["PANTRY_TOKENS_FILE"] = f"{self.home}/tokens"
            self.token = (self.home / "tokens").read_text()
        self.launch(["pantry-serve", *files, *ports], **environment)

    def swap(self) -> None:
        self.sync("2")
        self.until_ready("2")

    def until_ready(self, version: str = "1") -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/status", timeout=5) as response:
                if json.load(response)["models"][0]["serving"] == version:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"version {version} does not serve")


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def tree(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from tree(int(child))


def pss(pid: int) -> int:
    found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
