"""What can go wrong while bundles move.

* PantryError                 (loader.bundle.errors, with BundleError and ModelsInvalid)
  + LoaderError
    - UsageError              the command line or a storageUri cannot be followed
      x ReleaseUnreadable     no kubectl, no access to the cluster, or no such release
    - SourceError             the object store said no, and asking again will not help
      x ObjectNotFound        no such bucket, prefix or object, or its pinned generation is gone
      x AccessDenied          no valid identity, or one without permission
      x WrongAnswer           it answered with other bytes than were asked for
    - SourceUnavailable       the object store could not be reached or is overloaded: worth another try
    - Immutable               a version that exists already has other content
    - SignatureInvalid        a bundle is not signed, or not by the keys given, or it is not what was signed
    - PackFailed              the process that packs a pickle was killed, crashed, or needs more memory
    - VolumeError             the volume cannot take the bundle: full, read-only, or gone
    - ServerUnavailable       no server of ours answers where its status was asked for
"""

from __future__ import annotations

from loader.bundle.errors import PantryError


class LoaderError(PantryError):
    """A bundle could not be moved."""


class UsageError(LoaderError):
    """The command line, or a storageUri, cannot be followed."""


class ReleaseUnreadable(UsageError):
    """There is no kubectl, no access to the cluster, or no such release."""


class SourceError(LoaderError):
    """The object store said no, and asking again will not help."""


class ObjectNotFound(SourceError):
    """There is no such bucket, prefix or object, or its pinned generation is gone."""


class AccessDenied(SourceError):
    """There is no valid identity, or it lacks a permission."""


class WrongAnswer(SourceError):
    """The object store, or something on the way, answered with other bytes than were asked for."""


class SourceUnavailable(LoaderError):
    """The object store could not be reached or is overloaded; the same call may work later.

    Attributes:
        retry_after: seconds that the store asks to be left alone, or 0.
    """

    def __init__(self, message: str, *, hint: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Immutable(LoaderError):
    """A version that exists already has other content."""


class SignatureInvalid(LoaderError):
    """A bundle is not signed, or not by the keys given, or it is not what was signed."""


class PackFailed(LoaderError):
    """The process that packs a pickle was killed, crashed, or needs more memory than there is."""


class VolumeError(LoaderError):
    """The volume cannot take the bundle."""


class ServerUnavailable(LoaderError):
    """No server of ours answers where its status was asked for."""
