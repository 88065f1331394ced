"""Tokens that name a user and expire: JWT, signed and verified with HS256 and nothing else."""

from __future__ import annotations

import time
from typing import Any

import jwt

from serving.access.secret_file import Lines, check_length
from serving.errors import Unauthorized

ALGORITHM = "HS256"
ISSUER = AUDIENCE = "pantry"
LEEWAY_SECONDS = 30  # between the clocks of two nodes
MIN_SECRET_BYTES = 32  # as long as the digest: RFC 7518, 3.2

_SENTENCES: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "the token has expired; POST /login gives a new one"),
    (jwt.ImmatureSignatureError, "the token is not valid yet"),
    (jwt.InvalidSignatureError, "the token is not signed by this server"),
    (jwt.InvalidAlgorithmError, f"the token is not signed with {ALGORITHM}"),
    (jwt.InvalidAudienceError, "the token is for another service: its aud is wrong"),
    (jwt.InvalidIssuerError, "the token is from another service: its iss is wrong"),
    (jwt.MissingRequiredClaimError, "the token lacks one of the claims iss, aud, sub, iat, exp"),
)


def parse_secrets(lines: Lines) -> tuple[str, ...]:
    """Return the secrets: the first signs, all verify.

    Raises:
        ValueError: one is too short.
    """
    for number, line in lines:
        check_length(number, line, MIN_SECRET_BYTES)
    return tuple(line for _, line in lines)


def sign(user: str, secrets: tuple[str, ...], seconds: int) -> str:
    """Return a token for a user that is valid for some seconds from now."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "iat": now, "exp": now + seconds}
    return jwt.encode(claims, secrets[0], ALGORITHM)


def verify(token: str, secrets: tuple[str, ...], seconds: int) -> str:
    """Return the user whom a token names.

    Args:
        token: as it came.
        secrets: any of them may have signed it.
        seconds: no token may be made for longer.

    Raises:
        Unauthorized: it is not signed with one of the secrets, not for this service, not yet or no longer valid, or
            made for longer than allowed.
    """
    claims = _decode(token, secrets)
    issued, expires = claims["iat"], claims["exp"]
    if type(issued) is not int or type(expires) is not int:  # PyJWT takes texts too
        raise Unauthorized("the token's iat and exp are no whole numbers")
    if expires - issued > seconds:
        raise Unauthorized(f"the token is made for longer than {seconds} s; POST /login gives a new one")
    return str(claims["sub"])


def _decode(token: str, secrets: tuple[str, ...]) -> dict[str, Any]:
    problem: Exception | None = None
    for secret in secrets:
        try:
            return jwt.decode(
                token,
                secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                leeway=LEEWAY_SECONDS,
                options={
                    "require": ["iss", "aud", "sub", "iat", "exp"],
                    "strict_aud": True,
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.InvalidSignatureError as error:
            problem = error
        # Beyond PyJWT's own errors: numbers too large for a float, a header nested too deeply, odd types of claims.
        except (jwt.PyJWTError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
            problem = error
            break
    told = (sentence for kind, sentence in _SENTENCES if isinstance(problem, kind))
    raise Unauthorized(next(told, "the token is not one that /login gives")) from None
