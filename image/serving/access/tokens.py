"""Static tokens: whoever has one may ask."""

from __future__ import annotations

import hashlib
import hmac

from serving.access.secret_file import Lines, check_length

MIN_TOKEN_BYTES = 32


def parse_tokens(lines: Lines) -> tuple[bytes, ...]:
    """Return the tokens' SHA-256, so that all are compared at equal length.

    Raises:
        ValueError: one is too short, or could not come in a header.
    """
    for number, line in lines:
        if not (line.isascii() and line.isprintable()) or " " in line:
            raise ValueError(f"line {number} has other characters than printable ASCII without spaces")
        check_length(number, line, MIN_TOKEN_BYTES)
    return tuple(hashlib.sha256(line.encode()).digest() for _, line in lines)


def is_valid(token: str, valid: tuple[bytes, ...]) -> bool:
    """Tell whether a token is one of the valid ones, in a time that does not depend on how much of it is right."""
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    found = False
    for known in valid:
        found |= hmac.compare_digest(known, digest)
    return found
