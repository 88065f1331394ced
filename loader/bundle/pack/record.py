"""What was packed of a bundle, by what, and what loading it takes.

`.pack/pack.json` is UTF-8 JSON:

    {"formatVersion": 1,
     "pickles": [
       {"path": "model.pkl", "digest": "sha256:…",     the pickle; with another digest there the pack is stale
        "form": "columns",                             or "pickle": the pickle itself loads best
        "reason": "",                                  why, where the form is "pickle"
        "pack": {"path": ".pack/model.pkl-…", …},      an asset as in a manifest, in chunks of 4 MiB; or null
        "environment": {"python": "3.11", "numpy": "1.26", "packages": {"scikit-learn": "1.9.1"}},
        "seconds": 0.12,                               loading that form took, once its modules were imported
        "peakBytes": 61865984,                         at most resident meanwhile, above what the process had before
        "residentBytes": 57671680,                     resident afterwards, above the same
        "mappedBytes": 501211392}                      of the pack's arrays, to come on top when they are used; they
     ]}                                                are shared by all processes that only read them

The record is written last. The pack's asset verifies the pack's file.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from typing import Literal

import msgspec

from loader.bundle.errors import ManifestInvalid
from loader.bundle.manifest import Asset, Manifest

PACK_FOLDER = ".pack"
RECORD_NAME = ".pack/pack.json"


class Environment(msgspec.Struct, frozen=True):
    """What a pack was made with: versions of Python and numpy, and of the packages whose classes the object needs."""

    python: str
    numpy: str
    packages: dict[str, str] = {}

    def problem(self) -> str:
        """Tell how this process differs, or "". A class may keep its state in another way in another version."""
        here = {"python": python_version(), "numpy": package_version("numpy")}
        made = {"python": self.python, "numpy": self.numpy, **self.packages}
        for name, version in made.items():
            found = here[name] if name in here else package_version(name)
            if _minor(found) != _minor(version):
                return f"it was packed with {name} {version}, and here is {found or 'none'}"
        return ""


class PackedPickle(msgspec.Struct, frozen=True, rename="camel"):
    """What was found to be the best form of one pickle."""

    path: str
    digest: str
    form: Literal["columns", "pickle"]
    environment: Environment
    reason: str = ""
    pack: Asset | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
    resident_bytes: int = 0
    mapped_bytes: int = 0

    def problem(self, digest: str) -> str:
        """Tell why there is no pack to load in this process, or "".

        Args:
            digest: of the pickle as it is.
        """
        if self.digest != digest:
            return "the pickle is not the one that was packed"
        if self.pack is None:
            return self.reason or "the pickle itself loads best"
        return self.environment.problem()


class PackRecord(msgspec.Struct, frozen=True, rename="camel"):
    """What was packed of one bundle."""

    pickles: tuple[PackedPickle, ...] = ()
    format_version: int = 1

    @classmethod
    def decode(cls, data: bytes, where: str) -> PackRecord:
        """Read and check a record; one of a later format is read as an empty one.

        Args:
            data: the bytes of `pack.json`.
            where: what to call it in an error.

        Raises:
            ManifestInvalid: not JSON of this format, or it names a file that cannot be a pack.
        """
        try:
            if msgspec.json.decode(data, type=_Version).formatVersion > 1:
                return cls()
            record = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ManifestInvalid(f"{where} is no record of a pack: {error}", hint=_HINT) from error
        packs = [packed.pack for packed in record.pickles if packed.pack is not None]
        if packs:
            Manifest.of(packs)
        for pack in packs:
            if not pack.path.startswith(f"{PACK_FOLDER}/"):
                raise ManifestInvalid(f"{where}: the pack {pack.path!r} is not in {PACK_FOLDER}", hint=_HINT)
        return record

    def encode(self) -> bytes:
        """Return the bytes of `pack.json`."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def find(self, path: str) -> PackedPickle | None:
        """Return what was packed of the pickle with this path."""
        return next((packed for packed in self.pickles if packed.path == path), None)


class _Version(msgspec.Struct):
    formatVersion: int  # noqa: N815 - as it is in the file


def python_version() -> str:
    """Return this Python's version, such as 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


@functools.cache
def package_version(name: str) -> str:
    """Return the version of an installed package, or "" where there is none."""
    if name == "numpy" and name in sys.modules:  # asking the file system takes longer than mapping a pack
        return str(sys.modules[name].__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


_HINT = "Remove the folder .pack and pack again"
