"""Replies as Flask wants them."""

from __future__ import annotations

from typing import Any

from flask import Response

from serving.wire.replies import Reply, json_reply


def answer(content: Any, status: int = 200) -> Response:
    """Return a JSON response."""
    return respond(json_reply(content, status))


def respond(reply: Reply) -> Response:
    """Return a reply as a response."""
    return Response(reply.body, reply.status, reply.headers, content_type=reply.content_type)
