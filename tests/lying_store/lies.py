"""The lies: each changes one true answer. `LyingStore.lies` says to whom, from when on and how often."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.lying_store.store import Answer, Ask, Lie, LyingStore, refusal


def status(code: int, **headers: str) -> Lie:
    """An error of the store, in its own words; headers with "-" written "_"."""

    def lie(_: Ask, answer: Answer) -> None:
        answer.__dict__.update(refusal(code).__dict__)
        answer.headers |= {key.replace("_", "-"): value for key, value in headers.items()}

    return lie


def truncated(_: Ask, answer: Answer) -> None:
    """The connection is closed in the middle of the body."""
    answer.says, answer.body, answer.ends = len(answer.body), answer.body[: len(answer.body) // 2], "closed"


def short(_: Ask, answer: Answer) -> None:
    """Fewer bytes than were asked for, and a Content-Length that agrees with them."""
    answer.body = answer.body[: len(answer.body) // 2]


def long(_: Ask, answer: Answer) -> None:
    """More bytes than were asked for, and a Content-Length that agrees with them."""
    answer.body += b"more than you asked for"


def endless(_: Ask, answer: Answer) -> None:
    """A body that goes on until the client hangs up; no Content-Length."""
    answer.body, answer.endless = (answer.body or b"x") * (65536 // max(len(answer.body), 1) + 1), True


def length_too_long(_: Ask, answer: Answer) -> None:
    """A Content-Length beyond the body, which then ends."""
    answer.says, answer.ends = len(answer.body) + 10, "closed"


def length_too_short(_: Ask, answer: Answer) -> None:
    """A Content-Length below the body: the rest lies in front of the next answer of this connection."""
    answer.says = max(len(answer.body) - 10, 0)


def length_absurd(_: Ask, answer: Answer) -> None:
    """A Content-Length that no disk holds."""
    answer.says, answer.ends = 10**19, "closed"


def flipped(_: Ask, answer: Answer) -> None:
    """One bit in the middle is wrong."""
    if answer.body:
        middle = len(answer.body) // 2
        answer.body = answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]


def whole_object(store: LyingStore) -> Lie:
    """200 and the whole object, whatever range was asked for."""

    def lie(ask: Ask, answer: Answer) -> None:
        answer.status = 200
        answer.body = store.objects["models/digits/1/" + ask.name].data
        answer.headers.pop("Content-Range", None)

    return lie


def other_content_range(ask: Ask, answer: Answer) -> None:
    """The right bytes under a Content-Range that says they are others."""
    answer.headers["Content-Range"] = f"bytes {ask.start + 7}-{ask.start + 6 + len(answer.body)}/{10**9}"


def other_range(store: LyingStore, *, admits: bool) -> Lie:
    """As many bytes from another place of the object; Content-Range admits it or denies it."""

    def lie(ask: Ask, answer: Answer) -> None:
        data = store.objects["models/digits/1/" + ask.name].data
        start = (ask.start + len(data) // 2) % max(len(data) - len(answer.body), 1)
        if start == ask.start:
            start += 1
        answer.body = data[start : start + len(answer.body)].ljust(len(answer.body), b"\0")
        if admits:
            answer.headers["Content-Range"] = f"bytes {start}-{start + len(answer.body) - 1}/{len(data)}"

    return lie


def stalled(seconds: float, after: int = 100) -> Lie:
    """Silence after some bytes of the body."""

    def lie(_: Ask, answer: Answer) -> None:
        answer.silence = (after, seconds)

    return lie


def reset(_: Ask, answer: Answer) -> None:
    """The connection is reset in the middle of the body."""
    answer.says, answer.body, answer.ends = len(answer.body), answer.body[: len(answer.body) // 2], "reset"


def reset_at_once(_: Ask, answer: Answer) -> None:
    """The connection is reset before a word."""
    answer.raw, answer.ends = b"", "reset"


def closed_at_once(_: Ask, answer: Answer) -> None:
    """The connection is closed before a word, as by a server that was restarted."""
    answer.raw, answer.ends = b"", "closed"


def garbage(_: Ask, answer: Answer) -> None:
    """No HTTP."""
    answer.raw, answer.ends = b"\x15\x03\x01\x00\x02\x02\x16" + bytes(range(256)), "closed"


def html(_: Ask, answer: Answer) -> None:
    """200 and a web page, as of a captive portal."""
    answer.status, answer.headers = 200, {"Content-Type": "text/html"}
    answer.body = b"<html><body>Please log in.</body></html>"


def redirected(to: Callable[[Ask], str], code: int = 302) -> Lie:
    """A redirect; the target is made of what was asked."""

    def lie(ask: Ask, answer: Answer) -> None:
        answer.__dict__.update(Answer(code, {"Location": to(ask)}).__dict__)

    return lie


def does(effect: Callable[[], object]) -> Lie:
    """A true answer; something else happens just before it."""

    def lie(_: Ask, __: Answer) -> None:
        effect()

    return lie


def in_the_middle(store: LyingStore, effect: Callable[[], object], name: str) -> None:
    """Half of an object is handed out, then something happens, then what is true by then is told."""
    store.lies(truncated, name=name)
    store.lies(does(effect), name=name, first=True)


def late(seconds: float) -> Lie:
    """A true answer that comes late."""
    return does(lambda: time.sleep(seconds))


def listing(change: Callable[[dict[str, Any]], object]) -> Lie:
    """A listing that is changed in place."""

    def lie(_: Ask, answer: Answer) -> None:
        page = json.loads(answer.body)
        change(page)
        answer.body = json.dumps(page).encode()

    return lie


def body(data: bytes) -> Lie:
    """Another body, rightly announced."""

    def lie(_: Ask, answer: Answer) -> None:
        answer.body = data

    return lie


def trickling(_: Ask, answer: Answer) -> None:
    """A byte now and then, so that the connection is never quite silent."""
    answer.trickles = True
