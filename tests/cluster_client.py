"""The model that cluster tests serve, a table of words, and a client that keeps asking it and knows every right answer.

The client is a process of its own, on this machine or in a pod, so this file runs by itself where there is no checkout:
`python3 cluster_client.py '{"url": …}'` asks until its standard input ends, and tells its counts ten times a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import urllib3

if TYPE_CHECKING:
    from tests.cluster_release import Release

WIDTH = 8
WORD_TABLE = """
import pickle, numpy as np
start = np.arange({words}, dtype=np.float32)[:, None] * np.float32(0.001)
table = start + np.arange({width}, dtype=np.float32) + {version}
model = {{f"word{{i}}": row for i, row in enumerate(table)}}
with open("model.pkl", "wb") as file:
    pickle.dump(model, file, protocol=5)
with open("model.yaml", "w") as file:
    print("inputs: [{{name: word, datatype: BYTES, shape: [-1]}}]", file=file)
    print("answer: {{one: vector, many: vectors}}", file=file)
"""


def word_table(version: int, words: int = 100, width: int = WIDTH) -> str:
    """Return the code that makes a version of the model: some kB, or 4 bytes for each word and each of its numbers."""
    return WORD_TABLE.format(version=version, words=words, width=width)


def vector(word: int, version: int, width: int = WIDTH) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return what a version of the model answers for a word."""
    start: np.ndarray[Any, np.dtype[np.float32]] = np.float32(word) * np.float32(0.001) + np.arange(width, dtype="f4")
    return start + np.float32(version)


def judge(word: int, got: np.ndarray[Any, np.dtype[np.float32]], width: int) -> str:
    """Say which version gave an answer, where it is a right one."""
    version = round(float(got[0]))
    right = got.shape == (width,) and np.allclose(got, vector(word, version, width), atol=1e-3)
    return f"version {version}" if right else f"wrong answer for word{word}"


@dataclass
class Lap:
    """What a client got while something was done to the server.

    Attributes:
        counts: answers by version, and failures.
        pause: the longest time without a right answer, in seconds.
        seconds: that it took in all.
    """

    counts: Counter[str] = field(default_factory=Counter)
    pause: float = 0.0
    seconds: float = 0.0

    @property
    def failed(self) -> dict[str, int]:
        """Everything that was no right answer of some version."""
        return {what: count for what, count in self.counts.items() if not what.startswith("version")}

    def __str__(self) -> str:
        right = ", ".join(
            f"{count} of {what}" for what, count in sorted(self.counts.items()) if what not in self.failed
        )
        lost = f"{sum(self.failed.values())} failed"
        return f"{right}; {lost}; longest pause {self.pause:.1f} s; {self.seconds:.1f} s in all"


def right_answers(counts: Counter[str]) -> int:
    """Return how many answers were right."""
    return sum(count for what, count in counts.items() if what.startswith("version"))


class Client:
    """Asks all the time over kept-alive connections. Nothing is tried twice; some connections are busy, one idles.

    Args:
        asks: what `ask_until_told` takes.
        python: the command that runs Python where it is to be asked from.
    """

    def __init__(self, asks: dict[str, Any], python: tuple[str, ...] = (sys.executable,)) -> None:
        self._command = [*python, "-c", Path(__file__).read_text(), json.dumps(asks)]
        self._history: list[tuple[float, Counter[str]]] = [(time.monotonic(), Counter())]

    @classmethod
    def outside(
        cls, release: Release, host: str, certificate: Path, width: int = WIDTH, connections: int = 8
    ) -> Client:
        """Ask a release's Ingress over TLS, from this machine."""
        tls = {"ca_certs": str(certificate), "server_hostname": host, "assert_hostname": host}
        # By address, because DNS need not know the host.
        asks = {"url": f"https://{release.address()}", "host": host, "tls": tls}
        return cls({**asks, "width": width, "connections": connections})

    @classmethod
    def inside(cls, release: Release, pod: str, connections: int = 24) -> Client:
        """Ask a release's Service, from a pod of its namespace."""
        kubectl = ("kubectl", "--namespace", release.namespace.name, "exec", "--stdin", pod, "--", "python3")
        asks = {"url": f"http://{release.full}", "host": release.full}
        return cls({**asks, "width": WIDTH, "connections": connections}, kubectl)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._stdin.close()  # which ends it
            self._reader.join()
        assert self._process.returncode == 0, "the client died"

    def _read(self) -> None:
        for line in self._stdout:
            self._history.append((time.monotonic(), Counter(json.loads(line))))

    @property
    def counts(self) -> Counter[str]:
        """Answers so far, by version, and failures."""
        return self._history[-1][1]

    @property
    def failed(self) -> dict[str, int]:
        """Everything so far that was no right answer of some version."""
        return Lap(self.counts).failed

    def hears_only(self, version: int, seconds: float = 1.0) -> bool:
        """Tell whether this version gave all answers of the last second, and there were some."""
        recent = Counter(self.counts)
        recent.subtract(next((c for at, c in reversed(self._history) if at < time.monotonic() - seconds), Counter()))
        return {what for what, count in recent.items() if count} == {f"version {version}"}

    @contextmanager
    def lap(self, what: str) -> Iterator[Lap]:
        """Count what comes while the block runs, and print it in a line."""
        lap, began, first = Lap(), time.monotonic(), len(self._history) - 1
        try:
            yield lap
        finally:
            history = self._history[first:]
            lap.counts, lap.seconds = history[-1][1] - history[0][1], time.monotonic() - began
            good_at, good = began, right_answers(history[0][1])
            for at, counts in history[1:]:
                lap.pause = max(lap.pause, at - good_at)
                if right_answers(counts) > good:
                    good_at, good = at, right_answers(counts)
            print(f"\n{what}: {lap}", end="", flush=True)


def ask_until_told(url: str, host: str, width: int, connections: int, tls: dict[str, str] | None = None) -> None:
    """Ask until standard input ends; tell the counts so far in a line of JSON, ten times a second."""
    counts: Counter[str] = Counter()
    end, lock = threading.Event(), threading.Lock()

    def ask(number: int) -> None:
        pause = {0: 2.0, 1: 0.02}.get(number, 0.2)  # one idles across swaps and rollouts, and one is busy
        word = number
        with urllib3.connection_from_url(url, retries=False, maxsize=1, headers={"Host": host}, **(tls or {})) as pool:
            while not end.is_set():
                word = (word * 31 + 7) % 97
                got = once(pool, word, width)
                with lock:
                    counts[got] += 1
                end.wait(pause)

    def wait_for_the_word() -> None:
        sys.stdin.read()
        end.set()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    threading.Thread(target=wait_for_the_word, daemon=True).start()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
        with lock:
            print(json.dumps(counts), flush=True)


def once(pool: urllib3.HTTPConnectionPool, word: int, width: int) -> str:
    """Ask for one word, and say what came."""
    try:
        answer = pool.request("POST", "/predict", json={"instance": f"word{word}"}, timeout=30)
    except urllib3.exceptions.HTTPError as error:
        return f"failed: {type(error).__name__} {error}"[:200]
    if answer.status != 200:
        return f"failed: {answer.status} {answer.data[:100]!r}"
    return judge(word, np.asarray(answer.json()["vector"], dtype=np.float32), width)


if __name__ == "__main__":
    ask_until_told(**json.loads(sys.argv[1]))
