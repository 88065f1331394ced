"""What a bundle must be, so that a verified signature vouches for it. Pure rules: nothing is read here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from loader.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from loader.bundle.models import ModelSpec
from loader.errors import SignatureInvalid
from loader.signatures.statement import Statement, signed_by_publish


def require_manifest(statement: Statement, manifest: Manifest, manifest_digest: str, where: str) -> None:
    """Refuse a published bundle that is not, file by file, what was signed.

    Args:
        statement: what was signed.
        manifest: what the bundle holds.
        manifest_digest: the digest of its `manifest.json`.
        where: what to call the bundle in an error.

    Raises:
        SignatureInvalid: a file is not signed, or signed and not there, or has another digest.
    """
    require_files(statement, signed_by_publish(manifest, manifest_digest), where)


def require_files(statement: Statement, files: Mapping[str, str], where: str) -> None:
    """Refuse files that are not exactly the signed ones.

    Args:
        statement: what was signed.
        files: the digest of every file by its path.
        where: what to call their directory in an error.

    Raises:
        SignatureInvalid: with the first file, by name, that differs.
    """
    paths = files.keys() | statement.files.keys()
    if wrong := [path for path in paths if files.get(path) != statement.files.get(path)]:
        path = min(wrong)
        expected, got = statement.files.get(path, "no such file"), files.get(path, "no such file")
        raise SignatureInvalid(
            f"{where}: {path!r} is not what was signed: expected {expected}, got {got}",
            hint="Publish the bundle again under a new version, or find out who changed it",
        )


def require_identity(statement: Statement, spec: ModelSpec, where: str) -> None:
    """Refuse a signature for another model or version than models.yaml asks for.

    A signature without a version says nothing about which one it is; then the digest that models.yaml pins must be
    that of a signed manifest.

    Raises:
        SignatureInvalid: it is for another one, or names none and none is pinned.
    """
    if statement.version is None:
        if spec.digest is None or statement.files.get(MANIFEST_NAME) != spec.digest:
            raise SignatureInvalid(
                f"{where} is signed for {statement.model!r} and no version, models.yaml asks for {spec.name} "
                f"version {spec.version}: it could be an older one",
                hint=f"Sign it with `pantry publish --key`, or sign a directory named {spec.name}@{spec.version}; "
                "what is published and signed already can be pinned with `digest:` in models.yaml",
            )
    elif (statement.model, statement.version) != (spec.name, spec.version):
        raise SignatureInvalid(
            f"{where} is signed for {statement.model} version {statement.version}, "
            f"models.yaml asks for {spec.name} version {spec.version}",
            hint="Correct storageUri, name or version in models.yaml, or find out who moved the bundle",
        )


def require_names(statement: Statement, names: Iterable[str], where: str) -> frozenset[str]:
    """Refuse a plain prefix whose objects are not the signed files, by their names; digests are compared on arrival.

    Args:
        statement: what was signed.
        names: the objects of the prefix; that of the signature itself does not count.
        where: what to call the prefix or its signature in an error.

    Returns:
        The names that the signer left out on purpose, such as `.gitattributes`. Nobody vouches for them.

    Raises:
        SignatureInvalid: an object is not signed, or a signed file is not there.
    """
    found = set(names) - {SIGNATURE_NAME}
    unsigned = found - statement.files.keys()
    ignored = {name for name in unsigned if any(PurePosixPath(name).is_relative_to(path) for path in statement.ignored)}
    if strange := unsigned - ignored:
        raise SignatureInvalid(
            f"{where}: {min(strange)!r} is not signed", hint="Remove it, or sign the bundle again under a new version"
        )
    if missing := statement.files.keys() - found:
        raise SignatureInvalid(
            f"{where}: {min(missing)!r} is signed, but there is no such object",
            hint="Upload the bundle again under a new version",
        )
    return frozenset(ignored)
