"""Answers, before any framework or protocol has them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from serving.errors import ServingError

JSON_TYPE = "application/json"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Reply(msgspec.Struct, frozen=True):
    """What a client is answered.

    Attributes:
        body: all of it.
        status: of HTTP.
        content_type: the header.
        headers: the others.
    """

    body: bytes
    status: int = 200
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()


def json_reply(content: Any, status: int = 200) -> Reply:
    """Answer with a JSON document."""
    return Reply(msgspec.json.encode(content), status)


def refusal(error: ServingError, beside: Mapping[str, Any] = _NOTHING) -> Reply:
    """Answer with an error's sentence, and what the model's author wants beside it."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return Reply(msgspec.json.encode({**beside, "error": str(error)}), error.status, headers=tuple(headers.items()))


def crash(request_id: str, beside: Mapping[str, Any] = _NOTHING) -> Reply:
    """Answer where something failed that nobody expected."""
    sentence = f"internal error; the server's log has it under request id {request_id}"
    return json_reply({**beside, "error": sentence}, 500)
