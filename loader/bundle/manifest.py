"""The manifest: the list of a bundle's assets, and the bundle's identity.

`manifest.json` is UTF-8 JSON:

    {"formatVersion": 1,
     "chunkSize": 4194304,                     bytes that one entry of "chunks" covers
     "assets": [
       {"path": "model.pkl",                   relative, "/" between parts
        "size": 9437184,                       bytes
        "digest": "sha256:…",                  of the whole file
        "chunks": ["sha256:…", …],             of each chunkSize bytes in order, the last one shorter;
                                               absent where one chunk is the whole file
        "pin": {"generation": "17…", "crc32c": "AAAAAA=="}}   the object it came from; only where the
     ]}                                                       bucket's prefix has no manifest of its own

Assets are sorted by path. The digest of these bytes identifies the bundle. On a volume the manifest is
written last: its presence means that every asset is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from loader.bundle.digest import digest_of, is_digest
from loader.bundle.errors import ManifestInvalid

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "model.sig"  # beside the manifest; lists the assets and the manifest itself, so neither lists it
PUBLISHING_NAME = ".publishing"  # uploaded first: a prefix with it and without a manifest is not whole yet
CHUNK_SIZE = 4 * 1024 * 1024  # bytes: small enough to verify in private memory, large enough to cost one request
MAX_CHUNK_SIZE = 64 * 1024 * 1024  # bytes: a chunk is held in memory whole
MAX_MANIFEST_BYTES = 256 * 1024 * 1024  # 12 TB of one file, or a million small ones
_KEPT = (MANIFEST_NAME, SIGNATURE_NAME, PUBLISHING_NAME, ".journal", ".staging")
MAX_PATH_BYTES = 1024  # the longest object name that Cloud Storage allows


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The one state of an object that an asset was made from."""

    generation: str
    crc32c: str = ""


class Asset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file of a bundle: relative path, size in bytes, digest, and the digests of its chunks."""

    path: str
    size: int
    digest: str
    chunks: tuple[str, ...] = ()
    pin: Pin | None = None

    @classmethod
    def of_file(cls, file: Path, path: str, take: Callable[[bytes], object] | None = None) -> Asset:
        """Describe a file, from one pass over it.

        Args:
            file: where it is.
            path: of the asset.
            take: called with each chunk in order, for what else there is to learn of them.

        Raises:
            OSError: it cannot be read.
        """
        size, whole, chunks = 0, hashlib.sha256(), []
        with file.open("rb", buffering=0) as stream:
            while chunk := stream.read(CHUNK_SIZE):
                whole.update(chunk)
                chunks.append(digest_of(chunk))
                size += len(chunk)
                if take:
                    take(chunk)
        return cls(path, size, f"sha256:{whole.hexdigest()}", tuple(chunks) if len(chunks) > 1 else ())

    def chunk_digest(self, index: int) -> str:
        """Return the digest of one chunk; where one chunk is the whole file, the file's own."""
        return self.chunks[index] if self.chunks else self.digest


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The assets of one bundle, sorted by path."""

    assets: tuple[Asset, ...]
    chunk_size: int = CHUNK_SIZE
    format_version: int = 1

    @classmethod
    def of(cls, assets: list[Asset]) -> Manifest:
        """Make a manifest of assets in any order.

        Raises:
            ManifestInvalid: two assets cannot both be files of one directory, or a path leaves it.
        """
        manifest = cls(assets=tuple(sorted(assets, key=lambda asset: asset.path)))
        _check(manifest)
        return manifest

    @classmethod
    def decode(cls, data: bytes, where: str) -> Manifest:
        """Read and check a manifest.

        Args:
            data: the bytes of `manifest.json`.
            where: what to call it in an error.

        Raises:
            ManifestInvalid: not JSON of this format, or it describes impossible files.
        """
        try:
            manifest = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ManifestInvalid(
                f"{where} is not a bundle's manifest: {error}", hint="Publish the bundle again with `pantry publish`"
            ) from error
        if manifest.format_version != 1:
            raise ManifestInvalid(
                f"{where} has formatVersion {manifest.format_version}, expected 1", hint="Use a newer Pantry to read it"
            )
        _check(manifest, where)
        return manifest

    def encode(self) -> bytes:
        """Return the bytes of `manifest.json`: equal manifests have equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @property
    def digest(self) -> str:
        """The digest of the encoded manifest."""
        return digest_of(self.encode())

    @property
    def size(self) -> int:
        """Bytes of all assets together."""
        return sum(asset.size for asset in self.assets)


def chunk_range(size: int, index: int, chunk_size: int = CHUNK_SIZE) -> tuple[int, int]:
    """Return start and end of one chunk of a file in bytes."""
    return index * chunk_size, min((index + 1) * chunk_size, size)


def path_problem(path: str) -> str | None:
    """Tell in a few words why a path cannot name an asset, or None where it can."""
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if not path.isprintable() or "\\" in path:
        return "has a control character, a backslash or a character that is not text"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "is absolute, or has an empty, '.' or '..' part"
    if any(len(part.encode()) > 255 for part in parts):
        return "has a part longer than 255 bytes"
    if parts[0].casefold() in _KEPT:
        return "is a name that Pantry keeps for itself"
    return None


def check_paths(paths: Iterable[str], where: str) -> None:
    """Refuse names that cannot all be files of one directory.

    Raises:
        ManifestInvalid: with the name and what is wrong with it.
    """
    folders: set[str] = set()
    seen: dict[str, str] = {}
    for path in paths:
        if problem := path_problem(path):
            raise ManifestInvalid(f"{where}: the name {path[:120]!r} {problem}", hint="Rename or remove the object")
        if twin := seen.get(path.casefold()):
            raise ManifestInvalid(
                f"{where}: {path!r} and {twin!r} are one name where case does not count", hint="Rename one"
            )
        seen[path.casefold()] = path
        parts = path.casefold().split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    for path in sorted(folders & seen.keys()):
        raise ManifestInvalid(f"{where}: {seen[path]!r} is both a file and a folder", hint="Rename one of them")


def _check(manifest: Manifest, where: str = "the bundle") -> None:
    """Refuse what could not be written as files, or read back chunk by chunk."""
    if not 0 < manifest.chunk_size <= MAX_CHUNK_SIZE:
        raise _invalid(f"{where}: chunkSize is {manifest.chunk_size}, expected 1 to {MAX_CHUNK_SIZE}")
    if not manifest.assets:
        raise _invalid(f"{where} lists no assets, expected at least one")
    check_paths((asset.path for asset in manifest.assets), where)
    for asset in manifest.assets:
        if asset.size < 0 or not all(is_digest(digest) for digest in (asset.digest, *asset.chunks)):
            raise _invalid(f"{where}: {asset.path} has a size or a digest of no valid form")
        count = -(-asset.size // manifest.chunk_size)
        if len(asset.chunks) != (count if count > 1 else 0):
            raise _invalid(f"{where}: {asset.path} has {len(asset.chunks)} chunk digests, expected {count}")


def _invalid(text: str) -> ManifestInvalid:
    return ManifestInvalid(text, hint="Publish the bundle again with `pantry publish`")
