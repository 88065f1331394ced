"""JSON responses."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Response


def answer(content: Any, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(content), status, mimetype="application/json")
