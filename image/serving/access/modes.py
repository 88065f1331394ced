"""The three modes of access: off, static tokens, users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.access.secret_file import Content, Lines, SecretFile
from serving.access.tokens import is_valid, parse_tokens
from serving.errors import NotFound, SettingsInvalid, Unauthorized
from serving.settings import PREFIX, Settings


class Access:
    """Access off: everyone may ask.

    Attributes:
        restricted: some may not ask.
    """

    restricted = False

    def awaited(self) -> str:
        """Say which file has to come before anyone may ask, and what is wrong until then; or return nothing."""
        return ""

    def admit(self, token: str) -> None:
        """Return where the sender of a token may ask.

        Raises:
            AccessNotReady: nobody may ask yet.
            Unauthorized: the token is not valid; the sentence says why.
        """

    def log_in(self, name: str, password: str) -> tuple[str, int]:  # noqa: ARG002 - for the mode that has users
        """Return a token for a user, and the seconds that it is valid.

        Raises:
            AccessNotReady: nobody may ask yet.
            NotFound: this mode has no users.
            Unauthorized: the name or the password is wrong.
            TooManyAttempts: the name was tried too often.
            TooManyLogins: too many log in at once.
        """
        raise NotFound("there is no login here: PANTRY_ACCESS is not `users`")


class TokenAccess(Access):
    """Static tokens: whoever has one may ask."""

    restricted = True

    def __init__(self, settings: Settings) -> None:
        self._tokens = secret_file("tokens_file", settings, parse_tokens)

    def awaited(self) -> str:
        """Say what is wrong with the tokens, where there never were any."""
        return awaited(self._tokens)

    def admit(self, token: str) -> None:
        """Compare the token with all valid ones."""
        if not is_valid(token, self._tokens.content):
            raise Unauthorized("the token is not valid")


def secret_file(name: str, settings: Settings, parse: Callable[[Lines], Content]) -> SecretFile[Content]:
    """Return the file of secrets that a setting names; one that comes with the sync may come after the start.

    Raises:
        SettingsInvalid: there is none, or a wrong one, and it may not come late.
    """
    late = settings.access_files == "synced"
    return SecretFile(f"{PREFIX}{name.upper()}", getattr(settings, name), parse, late=late)


def awaited(*files: SecretFile[Any]) -> str:
    """Say why nobody may ask yet, or return nothing."""
    for file in files:
        if file.awaited:
            file.look()
    return "; ".join(file.awaited for file in files if file.awaited)


def access_from(settings: Settings) -> Access:
    """Return the access that the settings ask for.

    Raises:
        SettingsInvalid: a file is missing, wrong, or set for another mode than the chosen one.
    """
    files = {"off": (), "tokens": ("tokens_file",), "users": ("users_file", "signing_secret_file")}
    for mode, names in files.items():
        for name in names:
            # Whoever sets it believes that access is restricted.
            if mode != settings.access and getattr(settings, name):
                raise SettingsInvalid(
                    f"{PREFIX}{name.upper()} is set, but {PREFIX}ACCESS is {settings.access!r}, expected {mode!r}"
                )
    match settings.access:
        case "tokens":
            return TokenAccess(settings)
        case "users":
            from serving.access.users import UserAccess  # its libraries take 10 MB

            return UserAccess(settings)
        case _:
            return Access()
