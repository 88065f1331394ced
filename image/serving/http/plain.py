"""Requests for models that can only be read in one way. Pure.

Most are: a POST of HTTP/1.1 to a path without escapes or query, headers of printable ASCII, each once, and a length.
Whatever has more to it is left to gunicorn's own parser, and so is all that is wrong.
"""

from __future__ import annotations

import re

import msgspec

from serving.wire.question import Form

LONGEST_HEAD = 4094  # bytes; gunicorn takes as much in one line
MOST_HEADERS = 64

_HEAD = re.compile(
    rb"POST (?P<path>/(?:predict|prediction"
    rb"|v1/models/(?P<v1>[\w.-]+)(?:/versions/(?P<v1_version>[\w.-]+))?:predict"
    rb"|v2/models/(?P<v2>[\w.-]+)(?:/versions/(?P<v2_version>[\w.-]+))?/infer"
    rb")) HTTP/1\.1\r\n(?P<headers>(?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n"
)
_LENGTH = re.compile(r"[0-9]{1,10}")
_HOST = re.compile(r"[A-Za-z0-9.\[\]:-]+")
# They change how the body is read, or what becomes of the connection.
_NOT_PLAIN = frozenset({"content-encoding", "expect", "te", "trailer", "transfer-encoding", "upgrade"})


class PlainRequest(msgspec.Struct, frozen=True):
    """The head of such a request.

    Attributes:
        form: how the client asks.
        path: of the URL.
        name: of the model, or None for the default one.
        version: of the model, or None for the one that is served.
        headers: by lower-case names.
        length: bytes of the head.
        body_length: bytes of the body.
        keeps: whether the client wants the connection to stay open.
    """

    form: Form
    path: str
    name: str | None
    version: str | None
    headers: dict[str, str]
    length: int
    body_length: int
    keeps: bool


def read_plain(said: bytes) -> PlainRequest | None:
    """Return the head that bytes begin with, or None where it is not of this kind.

    Args:
        said: what has come on a connection.
    """
    match = _HEAD.match(said, 0, LONGEST_HEAD)
    if match is None:
        return None
    lines = match["headers"].decode("ascii").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if len(headers) != len(lines) - 1 or len(headers) > MOST_HEADERS or not _NOT_PLAIN.isdisjoint(headers):
        return None
    length, connection = headers.get("content-length", ""), headers.get("connection", "keep-alive").lower()
    if not _LENGTH.fullmatch(length) or not _HOST.fullmatch(headers.get("host", "")):
        return None
    if connection not in ("keep-alive", "close"):
        return None
    form = Form.V1 if match["v1"] else Form.V2 if match["v2"] else Form.SHORT
    name, model_version = match["v1"] or match["v2"], match["v1_version"] or match["v2_version"]
    return PlainRequest(
        form,
        match["path"].decode("ascii"),
        name.decode("ascii") if name else None,
        model_version.decode("ascii") if model_version else None,
        headers,
        match.end(),
        int(length),
        connection == "keep-alive",
    )
