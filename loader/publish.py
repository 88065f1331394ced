"""Publish: what a model's author runs. Hash a directory, upload it, and write the manifest last."""

from __future__ import annotations

import os
from pathlib import Path

from loader.bundle.bundle import Bundle
from loader.bundle.digest import digest_of
from loader.bundle.manifest import CHUNK_SIZE, MANIFEST_NAME, PUBLISHING_NAME, Asset, Manifest
from loader.errors import Immutable, UsageError
from loader.hashing import hash_file
from loader.report import Report, human_bytes
from loader.sources import open_source


def publish(directory: Path, uri: str, report: Report) -> str:
    """Upload a directory as a bundle and return the digest of its manifest.

    What a killed run has uploaded is kept where it is the same content. The manifest comes last, so no reader takes a
    half-published bundle for a whole one; publishing the same content again does nothing.

    Args:
        directory: the bundle's source: model, model.yaml, predictor and so on; hidden files are left out.
        uri: where to, ending in the version: gs://bucket/models/digits/1.
        report: where events go.

    Raises:
        UsageError: there is no such directory or nothing in it.
        BundleError: a name in it cannot be in a bundle, or its model.yaml or pickle is not as it must be.
        Immutable: the prefix holds other content.
        LoaderError: the store refused.
    """
    manifest, checksums = describe(directory)
    bundle = Bundle(directory, manifest, manifest.digest)
    config = bundle.config()  # the author hears of a mistake here, not the operator at night
    if config.predictor is None:
        bundle.pickle_asset(config)

    source = open_source(uri)
    listed = {stored.name: stored for stored in source.list()}
    if MANIFEST_NAME in listed:
        there = listed[MANIFEST_NAME]
        if digest_of(source.read(there, 0, there.size)) == manifest.digest:
            report.event("published", f"{uri} holds this bundle already: {manifest.digest}", digest=manifest.digest)
            return manifest.digest
        raise Immutable(f"{uri} holds another bundle", hint="Publish under a new version")
    begun = listed.pop(PUBLISHING_NAME, None) is not None
    if strange := sorted(listed.keys() - {asset.path for asset in manifest.assets}):
        raise Immutable(f"{uri} holds objects that are not in {directory}: {strange[0]!r}", hint="Use an empty prefix")

    if not begun:
        source.create(PUBLISHING_NAME, b"")
    for asset in manifest.assets:
        text = f"{asset.path}: {human_bytes(asset.size)}"
        if (stored := listed.get(asset.path)) is None:
            report.event("uploading", text, file=asset.path, bytes=asset.size)
            source.create(asset.path, directory / asset.path)
        elif stored.size != asset.size or (stored.crc32c and stored.crc32c != checksums[asset.path]):
            raise Immutable(f"{uri}/{asset.path} exists with other content", hint="Publish under a new version")
    source.create(MANIFEST_NAME, manifest.encode())
    report.event(
        "published", f"{uri}: {human_bytes(manifest.size)}, {manifest.digest}", uri=uri, digest=manifest.digest
    )
    return manifest.digest


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
    assets, checksums = [], {}
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            path = Path(folder, name)
            relative = path.relative_to(directory).as_posix()
            if name.startswith(".") or relative == MANIFEST_NAME:
                continue
            size, digest, chunks, crc32c = hash_file(path, CHUNK_SIZE)
            assets.append(Asset(path=relative, size=size, digest=digest, chunks=chunks if len(chunks) > 1 else ()))
            checksums[relative] = crc32c
    if not assets:
        raise UsageError(f"{directory} holds no files", hint="Give the directory that holds model.pkl")
    return Manifest.of(assets), checksums
