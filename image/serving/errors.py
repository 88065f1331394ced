"""What the server can answer other than a prediction.

* ServingError              a sentence for the client, and the HTTP status that goes with it
  + InvalidRequest  400     the body is not what the model takes
  + Unauthorized    401     no token, or not a valid one; or a wrong name or password
  + NotFound        404     no such model, version or page
  + BodyTooLarge    413     more bytes than the server accepts
  + TooManyAttempts 429     a name was tried with wrong passwords too often
  + TooManyLogins   503     more log in at once than are checked
  + AccessNotReady  503     nobody can be told from a stranger yet: the files that say who may ask are not there
  + ModelNotReady   503     known, but not loaded yet, or failed: ask again later
  + Overloaded      503     the answer would come too late, so it is not begun: ask again later
  + PredictTimeout  504     it was begun, and did not come in time
  + PredictFailed   500     the model raised on input that fits its declaration

* SettingsInvalid           (PantryError) an environment variable cannot be followed; ends the start with exit 2
* PredictorInvalid          (BundleError) a bundle has no object that can answer
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from loader.bundle.errors import BundleError, PantryError


class SettingsInvalid(PantryError):
    """An environment variable or option that cannot be followed."""


class PredictorInvalid(BundleError):
    """A bundle without an object that can answer."""


class ServingError(Exception):
    """An answer other than a prediction.

    Attributes:
        status: the HTTP status.
        retry_after: seconds after which asking again makes sense, or None.
        headers: that the answer has besides.
    """

    status = 500
    retry_after: int | None = None
    headers: Mapping[str, str] = MappingProxyType({})


class InvalidRequest(ServingError):
    """The body is not what the model takes."""

    status = 400


class Unauthorized(ServingError):
    """Who asks has not shown that they may.

    Args:
        sentence: what is missing or wrong.
        challenge: the scheme of authentication that would help.
    """

    status = 401

    def __init__(self, sentence: str, challenge: str = "Bearer") -> None:
        super().__init__(sentence)
        self.headers = {"WWW-Authenticate": f'{challenge} realm="pantry"', "Cache-Control": "no-store"}


class NotFound(ServingError):
    """No such model, version or page."""

    status = 404


class BodyTooLarge(ServingError):
    """The body has more bytes than the server accepts."""

    status = 413


class TooManyAttempts(ServingError):
    """A name was tried with wrong passwords too often.

    Args:
        sentence: how often is often.
        wait: seconds until the next attempt is checked.
    """

    status = 429

    def __init__(self, sentence: str, wait: float) -> None:
        super().__init__(sentence)
        self.retry_after = math.ceil(wait)


class TooManyLogins(ServingError):
    """More log in at once than are checked."""

    status = 503
    retry_after = 1


class AccessNotReady(ServingError):
    """The files that say who may ask are not there yet."""

    status = 503
    retry_after = 5


class ModelNotReady(ServingError):
    """The model is known, but cannot answer yet."""

    status = 503
    retry_after = 5


class Overloaded(ServingError):
    """The answer would come too late, so it is not begun."""

    status = 503

    def __init__(self, sentence: str, retry_after: int) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class PredictTimeout(ServingError):
    """The model was asked, and did not answer in time."""

    status = 504


class PredictFailed(ServingError):
    """The model raised on input that fits its declaration."""

    status = 500
