"""What the server can answer other than a prediction.

* ServingError              a sentence for the client, and the HTTP status that goes with it
  + InvalidRequest  400     the body is not what the model takes
  + NotFound        404     no such model, version or page
  + BodyTooLarge    413     more bytes than the server accepts
  + ModelNotReady   503     known, but not loaded yet, or failed: ask again later
  + PredictFailed   500     the model raised on input that fits its declaration

* SettingsInvalid           (PantryError) an environment variable cannot be followed; ends the start with exit 2
* PredictorInvalid          (BundleError) a bundle has no object that can answer
"""

from __future__ import annotations

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
    """

    status = 500
    retry_after: int | None = None


class InvalidRequest(ServingError):
    """The body is not what the model takes."""

    status = 400


class NotFound(ServingError):
    """No such model, version or page."""

    status = 404


class BodyTooLarge(ServingError):
    """The body has more bytes than the server accepts."""

    status = 413


class ModelNotReady(ServingError):
    """The model is known, but cannot answer yet."""

    status = 503
    retry_after = 5


class PredictFailed(ServingError):
    """The model raised on input that fits its declaration."""

    status = 500
