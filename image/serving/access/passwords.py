"""Users and their passwords, hashed with argon2id."""

from __future__ import annotations

import base64
import re
import secrets
from collections import Counter
from typing import NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from serving.access.secret_file import Lines

MAX_NAME_BYTES = 128
# OWASP's minimum: 19 MiB and about 36 ms. More of either is a gift to whoever floods /login.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_HASH = re.compile(r"(\$argon2id\$v=19\$m=(\d{1,6}),t=(\d{1,2}),p=(\d))\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}")
# Least for guessing to be slow, most for a login to be quick.
_LIMITS = (("m", 7 * 1024, 64 * 1024), ("t", 1, 10), ("p", 1, 4))


class Users(NamedTuple):
    """Who may log in.

    Attributes:
        hashes: by name.
        stranger: a hash that no password has, with the parameters that most users' hashes have. Who is unknown is
            checked against it, so that the answer takes as long as for a known name.
    """

    hashes: dict[str, str]
    stranger: str


def parse_users(lines: Lines) -> Users:
    """Read lines of `name:hash`.

    Raises:
        ValueError: a line is of another form, its name is there already, or its hash is too weak or too costly.
    """
    hashes: dict[str, str] = {}
    parameters: Counter[str] = Counter()
    for number, line in lines:
        name, colon, hashed = (part.strip() for part in line.partition(":"))
        if not colon or (wrong := name_problem(name)):
            raise ValueError(f"line {number} is not NAME:HASH" + (f": {wrong}" if colon else ""))
        if not (match := _HASH.fullmatch(hashed)):
            raise ValueError(
                f"line {number} has no argon2id hash; `pantry-serve hash-password NAME` prints such a line"
            )
        for (letter, least, most), text in zip(_LIMITS, match.groups()[1:], strict=True):
            if not least <= int(text) <= most:
                raise ValueError(f"line {number} has a hash with {letter}={text}, expected {least} to {most}")
        if name in hashes:
            raise ValueError(f"line {number} has a name that an earlier line has")
        hashes[name] = hashed
        parameters[match.group(1)] += 1
    ((most_common, _),) = parameters.most_common(1)
    return Users(hashes, f"{most_common}${_random(16)}${_random(32)}")


def name_problem(name: str) -> str:
    """Say why a text cannot be a user's name, or return nothing."""
    if not name or not name.isprintable() or ":" in name or name != name.strip() or name.startswith("#"):
        return "a name is printable, has no colon, and does not begin with #"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"a name has at most {MAX_NAME_BYTES} bytes"
    return ""


def hash_password(password: str) -> str:
    """Return the hash of a password, with its salt and parameters."""
    return _HASHER.hash(password)


def is_right(password: str, hashed: str) -> bool:
    """Tell whether a password has this hash."""
    try:
        return _HASHER.verify(hashed, password.encode("utf-8", "surrogatepass"))
    except (VerificationError, InvalidHashError):
        return False


def _random(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=")
