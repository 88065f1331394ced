"""What can be wrong with a bundle or with the files that describe it.

* PantryError                 a sentence: what, where, expected, got; and a hint: the next step
  + BundleError
    - ManifestInvalid         manifest.json is missing, unreadable or describes impossible files
    - DigestMismatch          the bytes are not the ones that the manifest names
    - ModelConfigInvalid      model.yaml cannot be followed
    - PickleInvalid           a pickle cannot become an object in this image
  + ModelsInvalid             models.yaml cannot be followed
"""

from __future__ import annotations


class PantryError(Exception):
    """A failure that a person can act on.

    Attributes:
        message: what is wrong and where, with what was expected and what was found.
        hint: the next step, or "" where there is none to give.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message and its hint as one line."""
        return f"{self.message}. {self.hint}" if self.hint else self.message


class BundleError(PantryError):
    """A bundle that cannot be used."""


class ManifestInvalid(BundleError):
    """A manifest that is missing, unreadable, or describes impossible files."""


class DigestMismatch(BundleError):
    """Bytes that are not the ones that the manifest names."""


class ModelConfigInvalid(BundleError):
    """A model.yaml that cannot be followed."""


class PickleInvalid(BundleError):
    """A pickle that cannot become an object in this image."""


class ModelsInvalid(PantryError):
    """A models.yaml that cannot be followed."""
