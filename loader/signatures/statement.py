"""The signed statement: what an author vouches for, as in-toto JSON with the OMS predicate.

    {"_type": "https://in-toto.io/Statement/v1",
     "subject": [{"name": "digits@1",                 model and version; the official tool writes a directory's name
                  "digest": {"sha256": "…"}}],        of all digests below, as bytes, one after the other
     "predicateType": "https://model_signing/signature/v1.0",
     "predicate": {"serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false,
                                     "ignore_paths": ["model.sig"]},
                   "resources": [{"name": "model.pkl", "algorithm": "sha256", "digest": "…"}, …]}}

Resources are all assets of the manifest and `manifest.json` itself, sorted by the parts of their paths. Other keys are
allowed and mean nothing, as OMS wants it.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from loader.bundle.digest import is_digest
from loader.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from loader.errors import SignatureInvalid

_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
T = TypeVar("T")


class Statement(msgspec.Struct, frozen=True):
    """What a verified signature vouches for.

    Attributes:
        model: the name it gives the model.
        version: the version it gives the model, or None where it names none.
        files: the digest of every signed file by its path.
        ignored: paths of files and folders that the signer left out on purpose.
    """

    model: str
    version: str | None
    files: dict[str, str]
    ignored: tuple[str, ...] = ()


class _Resource(msgspec.Struct):
    name: str
    digest: str
    algorithm: str


class _Serialization(msgspec.Struct):
    method: str
    hash_type: str
    allow_symlinks: bool = False
    ignore_paths: tuple[str, ...] = ()


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: list[_Resource]


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]


class _InToto(msgspec.Struct, rename="camel"):
    subject: list[_Subject]
    predicate_type: str
    predicate: msgspec.Raw
    type: str = msgspec.field(name="_type", default="")


def encode_statement(files: dict[str, str], model: str, version: str) -> bytes:
    """Return the JSON of a statement about a model's files.

    Raises:
        SignatureInvalid: what no reader would accept: no model or version, or a file that is called model.sig.
    """
    if not model or not version or "@" in model:
        raise SignatureInvalid(
            f"a signature names a model and a version, got {model!r} and {version!r}",
            hint="Publish to a URI that ends in both: gs://bucket/models/digits/1",
        )
    if SIGNATURE_NAME in files:
        raise SignatureInvalid(f"the bundle has a file {SIGNATURE_NAME} of its own", hint="Remove it")
    resources = [
        _Resource(path, files[path].removeprefix("sha256:"), "sha256")
        for path in sorted(files, key=lambda path: path.split("/"))
    ]
    predicate = _Predicate(_Serialization("files", "sha256", ignore_paths=(SIGNATURE_NAME,)), resources)
    subject = _Subject(f"{model}@{version}", {"sha256": _root(resources)})
    statement = _InToto([subject], _PREDICATE_TYPE, msgspec.Raw(msgspec.json.encode(predicate)), _STATEMENT_TYPE)
    return msgspec.json.encode(statement)


def decode_statement(payload: bytes, where: str) -> Statement:
    """Read a statement whose signature is verified already.

    Raises:
        SignatureInvalid: it is of a form that this reader does not know, or it cannot describe a directory's files.
    """
    signed = decode(payload, _InToto, f"{where} does not sign an in-toto statement about a model")
    if (signed.type, signed.predicate_type) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        raise SignatureInvalid(
            f"{where} signs {signed.type[:120]!r} with {signed.predicate_type[:120]!r}, "
            f"expected {_STATEMENT_TYPE!r} with {_PREDICATE_TYPE!r}",
            hint="Sign it again with model_signing 1.0 or newer",
        )
    predicate = decode(signed.predicate, _Predicate, f"{where} signs no list of files")
    form = predicate.serialization
    if (form.method, form.hash_type) != ("files", "sha256"):
        raise SignatureInvalid(
            f"{where} signs {form.method[:40]!r} with {form.hash_type[:40]!r}, expected 'files' with 'sha256'",
            hint="Sign it with the official tool's default settings",
        )
    if len(signed.subject) != 1 or signed.subject[0].digest.get("sha256") != _root(predicate.resources):
        raise SignatureInvalid(f"{where} contradicts itself: its subject is not the files that it lists")
    model, named, version = signed.subject[0].name.partition("@")
    return Statement(model, version if named else None, _signed_files(predicate, where), form.ignore_paths)


def signed_by_publish(manifest: Manifest, manifest_digest: str) -> dict[str, str]:
    """Return the digests, by path, of what a published bundle's signature lists: its assets and its manifest."""
    return {asset.path: asset.digest for asset in manifest.assets} | {MANIFEST_NAME: manifest_digest}


def decode(data: bytes | msgspec.Raw, kind: type[T], problem: str) -> T:
    """Read JSON from a stranger.

    Raises:
        SignatureInvalid: the problem, and what is wrong with the JSON.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureInvalid(
            f"{problem}: {error}", hint="Sign it with `pantry publish --key` or `model_signing sign key`"
        ) from error


def _signed_files(predicate: _Predicate, where: str) -> dict[str, str]:
    files: dict[str, str] = {}
    for resource in predicate.resources:
        name, digest = resource.name, f"{resource.algorithm}:{resource.digest}"
        if not is_digest(digest):
            raise SignatureInvalid(f"{where} signs {name[:120]!r} as {digest[:120]!r}, expected sha256:<64 hex digits>")
        if name in files or name == SIGNATURE_NAME or any(part in ("", ".", "..") for part in name.split("/")):
            raise SignatureInvalid(f"{where} signs {name[:120]!r}, which is twice there, or no file of a bundle")
        files[name] = digest
    if not files:
        raise SignatureInvalid(f"{where} signs no files, expected at least one")
    return files


def _root(resources: list[_Resource]) -> str:
    """Return the hex SHA-256 of all digests; of a digest that is no hex, of anything else."""
    try:
        return hashlib.sha256(bytes.fromhex("".join(resource.digest for resource in resources))).hexdigest()
    except ValueError:
        return ""
