"""What the repository index of the Open Inference Protocol says of the models: one entry for each version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from serving.state import ModelState, Phase, sentence
from serving.wire.protocol import broken_json

_STATES = {Phase.READY: "READY", Phase.LOADING: "LOADING", Phase.WARMING: "LOADING"}


class _IndexRequest(msgspec.Struct):
    ready: bool = False


def decode_index(body: bytes) -> bool:
    """Read a request for the index; an empty body asks for all.

    Returns:
        Whether only versions that can answer are asked for.

    Raises:
        InvalidRequest: not such a request.
    """
    if not body.strip():
        return False
    try:
        return msgspec.json.decode(body, type=_IndexRequest).ready
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise broken_json(body, error, "a request for the index") from error


def index_of(models: Iterable[ModelState], *, only_ready: bool) -> list[dict[str, Any]]:
    """Return the desired version of each model, and another one that still answers."""
    entries = []
    for model in models:
        if model.serving is not None and model.serving != model.version:
            entries.append({"name": model.name, "version": model.serving, "state": "READY", "reason": ""})
        state = _STATES.get(model.phase, "UNAVAILABLE")
        reason = "" if state == "READY" else sentence(model)
        entries.append({"name": model.name, "version": model.version, "state": state, "reason": reason})
    return [entry for entry in entries if entry["state"] == "READY" or not only_ready]
