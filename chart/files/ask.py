"""Asks whether a Service serves the versions it should: URL NAME=VERSION [NAME=VERSION].

`helm test` runs it, for up to two minutes, in which a swap that has begun may end.
"""

import json
import sys
import time
import urllib.error
import urllib.request

PATIENCE_SECONDS = 120


def ask(url: str) -> tuple[int, str]:
    """The status and body at a URL; status 0 and the reason where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the URL is the chart's own
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def missing(url: str, model: str) -> str | None:
    """What keeps a model, given as NAME=VERSION, from being served; None when nothing does."""
    name, version = model.split("=", 1)
    status, body = ask(f"{url}/v2/models/{name}")
    if status != 200:
        return f"{name}: {status} {body.strip()[:500]}"
    try:
        served = [str(v) for v in json.loads(body)["versions"]]
    except (ValueError, KeyError, TypeError):
        return f"{name}: the answer names no versions: {body.strip()[:500]}"
    if version in served:
        return None
    return f"{name}: version {version} is wanted, {', '.join(served) or 'none'} is served"


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
