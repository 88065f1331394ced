"""Access at the door of the app: before a body is read, and before an answer shows whether a route or model exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec
from flask import Flask, Response, after_this_request, current_app, request

from serving import page
from serving.access.modes import Access
from serving.errors import InvalidRequest, ServingError, Unauthorized
from serving.http.responses import answer

# What probes and load balancers ask, where tokens come from, and a page that holds nothing and asks for a token itself.
# GET / is not among them: it tells models and versions.
OPEN_PATHS = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready", "/login", *page.FILES})
MAX_LOGIN_BYTES = 8192


class _Login(msgspec.Struct):
    username: str
    password: str


def protect(app: Flask, access: Access) -> None:
    """Let an app answer only who may ask, but for OPEN_PATHS."""
    app.extensions["access"] = access
    if access.restricted:
        app.before_request(_check)


def stranger_finder(app: Flask) -> Callable[[str, str], bool] | None:
    """Return what tells, from a path and a header Authorization, that the answer can only be a refusal.

    It is asked before a body has come, so that a stranger's takes no memory. None where everyone may ask.
    """
    access = cast("Access", app.extensions["access"])

    def is_stranger(path: str, authorization: str) -> bool:
        if path in OPEN_PATHS:
            return False
        try:
            access.admit(_token(authorization))
        except ServingError:
            return True
        return False

    return is_stranger if access.restricted else None


def is_restricted() -> bool:
    """Tell whether this app answers some and not others."""
    return _access().restricted


def login(read_body: Callable[[int], bytes]) -> Response:
    """Give a token for a name and a password, which come by HTTP Basic or in a JSON body.

    Args:
        read_body: reads the request's body, up to a number of bytes.

    Raises:
        InvalidRequest: the body is of another form.
        ServingError: see `Access.log_in`.
    """
    after_this_request(_not_stored)
    token, seconds = _access().log_in(*_credentials(read_body))
    return answer({"token": token, "expires_in": seconds})


def _access() -> Access:
    return cast("Access", current_app.extensions["access"])


def _check() -> None:
    if request.path not in OPEN_PATHS:
        _access().admit(_token(request.headers.get("Authorization", "")))


def _token(header: str) -> str:
    """Take the token of a header: `Bearer X`, or X alone as the clients of older services send it."""
    first, _, rest = header.strip().partition(" ")
    if first.lower() == "bearer":
        first, rest = rest.strip(), ""
    if first.lower() == "basic" and rest:
        raise Unauthorized("a name and a password are taken by /login alone, which gives a token for them")
    if rest:
        raise Unauthorized("the header Authorization has neither a token nor `Bearer` and a token")
    if not first:
        raise Unauthorized("a token is needed: send it as `Authorization: Bearer TOKEN`")
    return first


def _credentials(read_body: Callable[[int], bytes]) -> tuple[str, str]:
    sent = request.authorization
    if sent is not None and sent.type == "basic":
        return sent.username or "", sent.password or ""
    body = read_body(MAX_LOGIN_BYTES)
    if "Authorization" in request.headers or not body.strip():
        raise Unauthorized("a name and a password are needed: by HTTP Basic, or in a JSON body", "Basic")
    try:
        fields = msgspec.json.decode(body, type=_Login)
    except (msgspec.DecodeError, RecursionError):
        # No cause: its text may tell a part of the password.
        raise InvalidRequest('expected {"username": "...", "password": "..."} as the body') from None
    return fields.username, fields.password


def _not_stored(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
