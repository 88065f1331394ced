"""Publish: what a model's author runs. Pack and hash a directory, sign it, upload it, and write the manifest last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c

from loader.bundle.bundle import Bundle
from loader.bundle.manifest import (
    MANIFEST_NAME,
    PUBLISHING_NAME,
    SIGNATURE_NAME,
    Asset,
    Manifest,
)  # fmt: skip
from loader.bundle.pack.record import PACK_FOLDER
from loader.errors import Immutable, UsageError
from loader.hashing import text_of_crc32c
from loader.report import Report, human_bytes
from loader.signatures import PrivateKey, sign
from loader.sources import Source, StoredObject, open_source, read_whole
from loader.transfer.staged import BLOCK_SIZE, hash_blocks


def publish(directory: Path, uri: str, report: Report, *, key: PrivateKey | None = None, pack: bool = True) -> str:
    """Upload a directory as a bundle and return the digest of its manifest.

    What a killed run has uploaded is kept where it is the same content. The manifest comes last, so no reader takes a
    half-published bundle for a whole one; publishing the same content again does nothing.

    Args:
        directory: the bundle's source: model, model.yaml, predictor and so on; hidden files are left out.
        uri: where to, ending in the model's name and the version: gs://bucket/models/digits/1.
        report: where events go.
        key: signs the bundle; None leaves it unsigned.
        pack: add the load-optimised form of its pickles. This runs their code.

    Raises:
        UsageError: there is no such directory or nothing in it, or a signed bundle's URI names no model and version.
        BundleError: a name in it cannot be in a bundle, or its model.yaml or pickle is not as it must be.
        Immutable: the prefix holds other content.
        LoaderError: the store refused.
    """
    model, version = identity(uri) if key else ("", "")
    source = open_source(uri)
    listed = {stored.name: stored for stored in source.list()}
    if pack and MANIFEST_NAME not in listed:
        from loader.packing import pack_directory

        pack_directory(directory, report)
    manifest, checksums = describe(directory)
    bundle = Bundle(directory, manifest, manifest.digest)
    config = bundle.config()  # the author hears of a mistake here, not the operator at night
    if config.predictor is None:
        bundle.pickle_asset(config)

    if MANIFEST_NAME in listed:
        if key and SIGNATURE_NAME not in listed:
            raise Immutable(f"{uri} is published and not signed", hint="Publish it signed, under a new version")
        return _published_already(source, listed[MANIFEST_NAME], manifest, report)
    begun = listed.pop(PUBLISHING_NAME, None) is not None
    encoded = manifest.encode()
    signature = sign(manifest, encoded, model, version, key) if key else None
    if stored := listed.pop(SIGNATURE_NAME, None):
        if read_whole(source, stored) != signature:
            raise Immutable(f"{uri} has the {SIGNATURE_NAME} of another publish", hint="Publish under a new version")
        signature = None  # a run that was killed has uploaded it
    if strange := sorted(listed.keys() - {asset.path for asset in manifest.assets}):
        raise Immutable(f"{uri} holds objects that are not in {directory}: {strange[0]!r}", hint="Use an empty prefix")

    if not begun:
        source.create(PUBLISHING_NAME, b"")
    for asset in manifest.assets:
        text = f"{asset.path}: {human_bytes(asset.size)}"
        if (stored := listed.get(asset.path)) is None:
            report.event("uploading", text, file=asset.path, bytes=asset.size)
            source.create(asset.path, directory / asset.path)
        elif stored.size != asset.size or (stored.crc32c or _crc32c(source, stored)) != checksums[asset.path]:
            raise Immutable(f"{uri}/{asset.path} exists with other content", hint="Publish under a new version")
    if signature is not None:
        source.create(SIGNATURE_NAME, signature)
    source.create(MANIFEST_NAME, encoded)
    report.event(
        "published", f"{uri}: {human_bytes(manifest.size)}, {manifest.digest}", uri=uri, digest=manifest.digest
    )
    return manifest.digest


def identity(uri: str) -> tuple[str, str]:
    """Return the model's name and the version that a storageUri ends in.

    Raises:
        UsageError: it has no two parts at its end.
    """
    parts = uri.partition("://")[2].strip("/").split("/")
    if len(parts) < 3:
        raise UsageError(
            f"{uri} names no model and version, which a signature must tell",
            hint="Publish to an address that ends in them, such as gs://bucket/models/digits/1",
        )
    return parts[-2], parts[-1]


def describe(directory: Path) -> tuple[Manifest, dict[str, str]]:
    """Hash every file of a directory.

    Returns:
        The manifest, and the base64 crc32c of every asset by path.

    Raises:
        UsageError: there is no such directory, or it holds no files.
        ManifestInvalid: a name in it cannot be in a bundle.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory", hint="Give the directory that holds model.pkl")
    paths = list(_files(directory))
    if not paths:
        raise UsageError(f"{directory} holds no files", hint="Give the directory that holds model.pkl")
    assets, checksums = [], {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter's lock to the others
        for asset, crc32c in pool.map(lambda path: _describe(path, path.relative_to(directory).as_posix()), paths):
            assets.append(asset)
            checksums[asset.path] = crc32c
    return Manifest.of(assets), checksums


def _describe(file: Path, path: str) -> tuple[Asset, str]:
    crc32c = google_crc32c.Checksum()
    asset = Asset.of_file(file, path, crc32c.update)
    return asset, text_of_crc32c(int.from_bytes(crc32c.digest(), "big"))


def _files(directory: Path) -> Iterator[Path]:
    """Yield what becomes assets: all but hidden files, bytecode, and what publish itself writes."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(
            name for name in folders if name == PACK_FOLDER or not name.startswith((".", "__pycache__"))
        )
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path not in (directory / MANIFEST_NAME, directory / SIGNATURE_NAME):
                yield path


def _crc32c(source: Source, stored: StoredObject) -> str:
    """Read an object back whose checksum the store does not tell."""
    if stored.size == 0:
        return text_of_crc32c(0)
    with source.open(stored, 0, stored.size) as body:
        return text_of_crc32c(hash_blocks(iter(lambda: body.read(BLOCK_SIZE), b"")).crc32c)


def _published_already(source: Source, there: StoredObject, manifest: Manifest, report: Report) -> str:
    """Accept a manifest of the same files; a pack holds measurements, so two of one pickle are never the same bytes."""
    data = read_whole(source, there)
    published = Manifest.decode(data, f"{source.uri}/{MANIFEST_NAME}")
    if _unpacked(published) != _unpacked(manifest):
        raise Immutable(f"{source.uri} holds another bundle", hint="Publish under a new version")
    report.event("published", f"{source.uri} holds this bundle already: {published.digest}", digest=published.digest)
    return published.digest


def _unpacked(manifest: Manifest) -> list[Asset]:
    return [asset for asset in manifest.assets if not asset.path.startswith(f"{PACK_FOLDER}/")]
