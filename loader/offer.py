"""What a source offers for one entry of models.yaml: from its listing, manifest and signature.

Sync moves what is accepted here, and plan says what sync would move. No asset is read.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from loader.bundle.bundle import Bundle
from loader.bundle.digest import digest_of
from loader.bundle.errors import DigestMismatch, ManifestInvalid
from loader.bundle.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    PUBLISHING_NAME,
    SIGNATURE_NAME,
    Manifest,
    check_paths,
)
from loader.bundle.models import ModelSpec
from loader.errors import ObjectNotFound, SignatureInvalid, SourceUnavailable, WrongAnswer
from loader.hashing import crc32c_of
from loader.retry import patiently
from loader.signatures import PublicKeys, Statement, check, require_identity, require_manifest, require_names
from loader.sources import Source, StoredObject, read_whole
from loader.transfer.fetch import DAMAGED_READS
from loader.transfer.staged import Wanted

MAX_OBJECT_BYTES = 2**53  # the largest number that JSON carries everywhere


class Offer(msgspec.Struct, frozen=True):
    """What is below a source's prefix.

    Attributes:
        source: where.
        assets: the objects that are assets, by name.
        manifest: the published manifest's object; None for a plain prefix.
        signature: the signature's object, where there is one.
    """

    source: Source
    assets: dict[str, StoredObject]
    manifest: StoredObject | None
    signature: StoredObject | None


class Accepted(msgspec.Struct, frozen=True):
    """An offer that may be moved.

    Attributes:
        wanted: every asset, in the order of the manifest.
        content: names the content, for a staging directory.
        manifest: the bytes of the published manifest; None for a plain prefix.
        signature: the bytes of the signature, where keys were asked for.
        statement: what was signed; for a plain prefix, its digests are compared when the bytes are there.
    """

    wanted: list[Wanted]
    content: str
    manifest: bytes | None = None
    signature: bytes | None = None
    statement: Statement | None = None


def look(source: Source) -> Offer:
    """List a source, once.

    Raises:
        ObjectNotFound: there is nothing, or nothing whole yet.
        SourceError: the store refused.
    """
    assets: dict[str, StoredObject] = {}
    for stored in patiently(source.list):
        if not 0 <= stored.size <= MAX_OBJECT_BYTES:
            raise ManifestInvalid(
                f"{source.uri}: {stored.name!r} is listed with {stored.size} bytes, expected 0 to {MAX_OBJECT_BYTES}",
                hint="Check the store",
            )
        if assets.setdefault(stored.name, stored) is not stored:
            raise ManifestInvalid(f"{source.uri}: {stored.name!r} is listed twice", hint="Sync again")
    manifest, signature = assets.pop(MANIFEST_NAME, None), assets.pop(SIGNATURE_NAME, None)
    if assets.pop(PUBLISHING_NAME, None) and manifest is None:
        raise ObjectNotFound(
            f"{source.uri} is being published and not whole yet: it has no manifest",
            hint="Wait for `pantry publish` to end, or run it again, then sync",
        )
    if not assets:
        raise ObjectNotFound(
            f"{source.uri} holds no objects, expected a published bundle or a model's files",
            hint="Check storageUri and version, or upload with `pantry publish`",
        )
    return Offer(source, assets, manifest, signature)


def is_same(offer: Offer, present: Bundle) -> bool:
    """Tell whether a bundle on a volume is what a source has: from the listing alone, where it tells checksums."""
    if offer.manifest:
        there = (present.directory / MANIFEST_NAME).read_bytes()
        if offer.manifest.size != len(there):
            return False
        if offer.manifest.crc32c:
            return offer.manifest.crc32c == crc32c_of(there)
        return _read(offer.source, offer.manifest) == there
    pins = {asset.path: asset.pin and (asset.pin.generation, asset.size) for asset in present.manifest.assets}
    return pins == {name: (stored.generation, stored.size) for name, stored in offer.assets.items()}


def accept(offer: Offer, spec: ModelSpec, keys: PublicKeys | None) -> Accepted:
    """Check all that can be checked before the first byte of an asset.

    Args:
        offer: what there is.
        spec: what is wanted; may pin the manifest's digest.
        keys: one of these must have signed it; None asks for no signature.

    Raises:
        DigestMismatch: it is not what models.yaml pins, or an object has another size than the manifest says.
        ManifestInvalid: the manifest, or a plain prefix, describes impossible files.
        ObjectNotFound: the manifest lists what is not there.
        SignatureInvalid: no signature, none of these keys, or of something else.
    """
    source = offer.source
    manifest = _read(source, offer.manifest) if offer.manifest else None
    if manifest is not None:
        require_pin(spec, digest_of(manifest), f"{source.uri}/{MANIFEST_NAME}")
    signature = _signature(offer) if keys is not None else None
    statement = None
    where = f"{source.uri}/{SIGNATURE_NAME}"
    if keys is not None and signature is not None:
        statement = check(signature, keys, where)
        require_identity(statement, spec, where)
    if manifest is None:
        check_paths(offer.assets, source.uri)
        if statement and (unsigned := sorted(require_names(statement, offer.assets, where))):
            raise SignatureInvalid(
                f"{where}: the signer left {unsigned[0]!r} out, so nobody vouches for it",
                hint="Remove it from the prefix, or sign it too",
            )
        return Accepted(
            [Wanted(offer.assets[name], None) for name in sorted(offer.assets)],
            _identity_of_prefix(offer.assets.values()),
            signature=signature,
            statement=statement,
        )
    parsed = Manifest.decode(manifest, f"{source.uri}/{MANIFEST_NAME}")
    if statement:
        require_manifest(statement, parsed, digest_of(manifest), where)
    return Accepted(_wanted(offer, parsed), digest_of(manifest)[7:19], manifest, signature, statement)


def read_asset(offer: Offer, wanted: Wanted) -> bytes:
    """Return the verified bytes of one small asset of a published bundle.

    Raises:
        DigestMismatch: it is not what the manifest says.
    """
    data = _read(offer.source, wanted.stored)
    got = digest_of(data)
    if wanted.asset and got != wanted.asset.digest:
        raise DigestMismatch(
            f"{offer.source.uri}/{wanted.stored.name} is damaged: expected {wanted.asset.digest}, got {got}",
            hint="Publish the bundle again under a new version",
        )
    return data


def require_pin(spec: ModelSpec, digest: str, where: str) -> None:
    """Refuse a manifest that is not the one that models.yaml pins.

    Raises:
        DigestMismatch: it is another.
    """
    if spec.digest and spec.digest != digest:
        raise DigestMismatch(
            f"{where}: models.yaml pins {spec.digest}, got {digest}",
            hint="Correct the digest in models.yaml, or find out who changed the bundle",
        )


def _wanted(offer: Offer, manifest: Manifest) -> list[Wanted]:
    """Pair every asset of a manifest with the listed generation of its object."""
    wanted = []
    for asset in manifest.assets:
        stored = offer.assets.get(asset.path)
        if stored is None:
            raise ObjectNotFound(
                f"{offer.source.uri}: the manifest lists {asset.path}, but there is no such object",
                hint="Publish the bundle again under a new version",
            )
        if stored.size != asset.size:
            raise DigestMismatch(
                f"{offer.source.uri}/{asset.path} is damaged: the manifest says {asset.size} bytes, "
                f"it has {stored.size}",
                hint="Publish the bundle again under a new version",
            )
        wanted.append(Wanted(stored, asset, manifest.chunk_size))
    return wanted


def _signature(offer: Offer) -> bytes:
    if offer.signature is None:
        raise SignatureInvalid(
            f"{offer.source.uri} has no {SIGNATURE_NAME}, expected a signature, as public keys are configured",
            hint="Publish it with `pantry publish --key`, or sync without public keys",
        )
    return _read(offer.source, offer.signature)


def _read(source: Source, stored: StoredObject) -> bytes:
    if stored.size > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(
            f"{source.uri}/{stored.name} has {stored.size} bytes, expected at most {MAX_MANIFEST_BYTES}",
            hint="Publish the bundle again with `pantry publish`",
        )

    wrong = 0

    def read() -> bytes:
        nonlocal wrong
        try:
            data = read_whole(source, stored)
        except WrongAnswer as error:
            wrong += 1
            if wrong == DAMAGED_READS:
                raise
            raise SourceUnavailable(error.message) from error
        if len(data) != stored.size or (stored.crc32c and crc32c_of(data) != stored.crc32c):
            raise SourceUnavailable(f"{source.uri}/{stored.name} arrived damaged or not whole")
        return data

    return patiently(read)


def _identity_of_prefix(listed: Iterable[StoredObject]) -> str:
    lines = (f"{stored.name}\0{stored.generation}\0{stored.size}" for stored in listed)
    return digest_of("\n".join(sorted(lines)).encode())[7:19]
