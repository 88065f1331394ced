"""What can go wrong while bundles move.

* PantryError                 (loader.bundle.errors, with BundleError and ModelsInvalid)
  + LoaderError
    - UsageError              the command line or a storageUri cannot be followed
    - SourceError             the object store said no, and asking again will not help
      x ObjectNotFound        no such bucket, prefix or object, or its pinned generation is gone
      x AccessDenied          no valid identity, or one without permission
    - SourceUnavailable       the object store could not be reached or is overloaded: worth another try
    - Immutable               a version that exists already has other content
    - VolumeError             the volume cannot take the bundle: full, read-only, or gone
    - ServerUnavailable       no server of ours answers where its status was asked for
"""

from __future__ import annotations

from loader.bundle.errors import PantryError


class LoaderError(PantryError):
    """A bundle could not be moved."""


class UsageError(LoaderError):
    """The command line, or a storageUri, cannot be followed."""


class SourceError(LoaderError):
    """The object store said no, and asking again will not help."""


class ObjectNotFound(SourceError):
    """There is no such bucket, prefix or object, or its pinned generation is gone."""


class AccessDenied(SourceError):
    """There is no valid identity, or it lacks a permission."""


class SourceUnavailable(LoaderError):
    """The object store could not be reached or is overloaded; the same call may work later."""


class Immutable(LoaderError):
    """A version that exists already has other content."""


class VolumeError(LoaderError):
    """The volume cannot take the bundle."""


class ServerUnavailable(LoaderError):
    """No server of ours answers where its status was asked for."""
