"""Digests: `sha256:<64 hex digits>`, the only form in which Pantry names content."""

from __future__ import annotations

import hashlib
import re

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
_DIGEST = re.compile(DIGEST_PATTERN)


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_digest(text: str) -> bool:
    """Tell whether a text has the form of a digest."""
    return _DIGEST.fullmatch(text) is not None  # match would let a line end follow
