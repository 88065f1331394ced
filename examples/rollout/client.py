"""A client that asks one address all the time and counts which version answers: a rollout as it looks from outside.

python client.py http://localhost:8080                          until Ctrl-C, with a line a second
python client.py https://models.example.com --seconds 60
python client.py https://192.0.2.1 --host models.example.com    before DNS knows the name

SSL_CERT_FILE names the certificates of an authority of your own. The exit status is 1 where a request failed.
"""

from __future__ import annotations

import argparse
import queue
import signal
import sys
import threading
import time
from collections import Counter

import urllib3

PATH = "/v2/models/rollout/infer"  # the answers of v2 name the version
FLOWER = {"inputs": [{"name": "flower", "datatype": "FP64", "shape": [1, 4], "data": [5.9, 3.0, 5.1, 1.8]}]}
PAUSE_SECONDS = 0.02  # of each connection, between an answer and its next question


def main() -> None:
    options = parse()
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    asking = (options.url, options.host, answers, done)
    threads = [threading.Thread(target=ask, args=asking) for _ in range(options.connections)]
    for thread in threads:
        thread.start()
    end, total = time.monotonic() + options.seconds, Counter[str]()
    while not done.wait(min(1.0, end - time.monotonic())) and time.monotonic() < end:
        total += (counts := counted(answers))
        print(f"{time.strftime('%H:%M:%S')}  {told(counts)}", flush=True)
    done.set()
    for thread in threads:
        thread.join()
    total += counted(answers)
    print(f"in all    {told(total)}")
    sys.exit(any(map(failed, total)))


def ask(url: str, host: str, answers: queue.SimpleQueue[str], done: threading.Event) -> None:
    """Ask on one connection, kept alive, until it is done; nothing is tried twice."""
    names = {"server_hostname": host, "assert_hostname": host} if host and url.startswith("https:") else {}
    with urllib3.connection_from_url(url, retries=False, timeout=30, **names) as connection:
        while not done.wait(PAUSE_SECONDS):
            try:
                answer = connection.request("POST", PATH, json=FLOWER, headers={"Host": host} if host else None)
                right = answer.status == 200
                answers.put(
                    f"version {answer.json()['model_version']}" if right else f"{answer.status} {answer.data!r}"
                )
            except (urllib3.exceptions.HTTPError, LookupError, ValueError) as error:
                answers.put(f"{type(error).__name__}: {error}")


def counted(answers: queue.SimpleQueue[str]) -> Counter[str]:
    """Take out what has come, and count it."""
    return Counter(answers.get() for _ in range(answers.qsize()))


def failed(answer: str) -> bool:
    return not answer.startswith("version ")


def told(counts: Counter[str]) -> str:
    """Say how many answers each version gave, how many requests failed, and why."""
    reasons = [answer for answer in counts if failed(answer)]
    versions = [f"{answer}: {count}" for answer, count in sorted(counts.items()) if not failed(answer)]
    why = f" ({'; '.join(reasons)[:500]})" if reasons else ""
    return ", ".join([*versions, f"failed: {sum(counts[reason] for reason in reasons)}"]) + why


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask one address all the time, and count which version answers.")
    parser.add_argument("url", metavar="URL", help="of the service: scheme, host and port")
    parser.add_argument("--host", default="", help="the service's name, where the URL has an address in its place")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="to go on for; default: until Ctrl-C")
    parser.add_argument("--connections", type=int, default=4, help="to ask on at once, each kept alive; default: 4")
    return parser.parse_args()


if __name__ == "__main__":
    main()
