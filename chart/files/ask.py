"""Asks whether a Service serves the versions it should, and answers: URL NAME=VERSION[,VERSION] [NAME=…].

`helm test` runs it, for up to two minutes, in which a swap that has begun may end. Several versions are those of
several tracks. It shows the first token of PANTRY_TOKENS_FILE. With PANTRY_ACCESS it has nothing to show: a model which
asks who is there counts as served.
"""

import json
import math
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE_SECONDS = 120
LARGEST_ROW = 100_000  # values; a larger row of zeros says no more, and takes long


def token() -> str:
    """The first token of the file, or nothing where there is no file."""
    if "PANTRY_TOKENS_FILE" not in os.environ:
        return ""
    lines = Path(os.environ["PANTRY_TOKENS_FILE"]).read_text().splitlines()
    return next(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def ask(url: str, body: object = None) -> tuple[int, str]:
    """The status and body at a URL; status 0 and the reason where nobody answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {t}"} if (t := token()) else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, headers)  # noqa: S310 - the URL is the chart's own
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def zeros(spec: dict[str, object]) -> dict[str, object]:
    """One row for a declared input: zeros, empty texts or false."""
    shape = [1 if n < 0 else n for n in spec["shape"]]
    value = {"BYTES": "", "BOOL": False}.get(spec["datatype"], 0)
    return {"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "data": [value] * math.prod(shape)}


def missing(url: str, model: str) -> str | None:
    """What keeps a model, given as NAME=VERSION[,VERSION], from being served; None when nothing does."""
    name, versions = model.split("=", 1)
    status, body = ask(f"{url}/v2/models/{name}")
    if status == 401 and "PANTRY_ACCESS" in os.environ:
        print(f"{name}: asks who is there, so its version is not compared")
        return None
    if status != 200:
        return f"{name}: {status} {body.strip()[:500]}"
    try:
        told = json.loads(body)
        served = [str(v) for v in told["versions"]]
    except (ValueError, KeyError, TypeError):
        return f"{name}: the answer names no versions: {body.strip()[:500]}"
    if not set(versions.split(",")) & set(served):
        return f"{name}: version {versions} is wanted, {', '.join(served) or 'none'} is served"
    return unanswered(f"{url}/v2/models/{name}/infer", name, told.get("inputs") or [])


def unanswered(url: str, name: str, inputs: list[dict[str, object]]) -> str | None:
    """What keeps a model from answering a row of zeros; None where it answers, or declares no inputs."""
    rows = [zeros(spec) for spec in inputs]
    if not rows or sum(len(row["data"]) for row in rows) > LARGEST_ROW:
        return None
    status, body = ask(url, {"inputs": rows})
    if status == 400:
        print(f"{name}: answers, but not to a row of zeros: {body.strip()[:500]}")
    return None if status in {200, 400} else f"{name}: {status} {body.strip()[:500]}"


def missing_anything(url: str, models: list[str]) -> str | None:
    """What keeps the release from being well; None when nothing does."""
    status, body = ask(f"{url}/healthz")
    if status != 200:
        return f"{url}/healthz: {status} {body.strip()[:500]}"
    return next(filter(None, (missing(url, model) for model in models)), None)


def main(url: str, *models: str) -> int:
    """Asks until everything is served, or patience ends; the exit status."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while why := missing_anything(url, list(models)):
        if time.monotonic() > deadline:
            print(f"not served: {why}")
            return 1
        print(f"not yet: {why}", flush=True)
        time.sleep(3)
    print(f"served: {' '.join(models)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
