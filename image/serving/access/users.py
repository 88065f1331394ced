"""Access for users: a password gives a token that expires."""

from __future__ import annotations

import threading
import time

from serving.access.attempts import Attempts
from serving.access.modes import Access, awaited, secret_file
from serving.access.passwords import MAX_NAME_BYTES, is_right, parse_users
from serving.access.signing import parse_secrets, sign, verify
from serving.errors import TooManyAttempts, TooManyLogins, Unauthorized
from serving.settings import Settings

ATTEMPTS, ATTEMPTS_SECONDS, NAMES = 10, 60.0, 10_000
WAITING = 2  # logins that may wait for the one that is checked: each holds a thread that could predict


class UserAccess(Access):
    """Users: who logs in with a password may ask, for a time."""

    restricted = True

    def __init__(self, settings: Settings) -> None:
        self._users = secret_file("users_file", settings, parse_users)
        self._secrets = secret_file("signing_secret_file", settings, parse_secrets)
        self._seconds = settings.token_seconds
        self._attempts = Attempts(ATTEMPTS, ATTEMPTS_SECONDS, NAMES)
        self._one_at_a_time = threading.Lock()
        self._places = threading.BoundedSemaphore(1 + WAITING)

    def awaited(self) -> str:
        """Say what is wrong with the users or the secret, where there never were any."""
        return awaited(self._users, self._secrets)

    def admit(self, token: str) -> None:
        """Verify the token, and that whom it names is still a user."""
        user = verify(token, self._secrets.content, self._seconds)
        if user not in self._users.content.hashes:
            raise Unauthorized("the token's user is no longer one")

    def log_in(self, name: str, password: str) -> tuple[str, int]:
        """Check a password, one at a time: a flood of logins takes one core and 19 MiB of a worker, not all it has."""
        if not self._places.acquire(blocking=False):
            raise TooManyLogins("too many log in at once")
        try:
            with self._one_at_a_time:
                self._check(name, password)
        finally:
            self._places.release()
        return sign(name, self._secrets.content, self._seconds), self._seconds

    def _check(self, name: str, password: str) -> None:
        users = self._users.content  # first: what cannot be checked yet is no attempt
        counted = name[:MAX_NAME_BYTES]
        if wait := self._attempts.take(counted, time.monotonic()):
            raise TooManyAttempts(f"this name was tried with {ATTEMPTS} wrong passwords within a minute", wait)
        right = is_right(password, users.hashes.get(name, users.stranger))
        if not (right and name in users.hashes):
            raise Unauthorized("the name or the password is wrong", "Basic")
        self._attempts.give_back(counted)
