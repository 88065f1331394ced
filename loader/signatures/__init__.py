"""Signatures: sign a bundle with a private key, and tell by public keys whether a bundle is what its author signed.

`model.sig` lies beside a bundle's files, which do not list it. It is what the OpenSSF model-signing tool (OMS) writes
and verifies with an elliptic curve key: a Sigstore bundle, in JSON, around a DSSE envelope.

    {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
     "verificationMaterial": {"publicKey": {"hint": "…"},   hex SHA-256 of the public key's PEM; trusted for nothing
                              "tlogEntries": []},
     "dsseEnvelope": {"payloadType": "application/vnd.in-toto+json",
                      "payload": "…",                       base64 of the statement, which statement.py describes
                      "signatures": [{"sig": "…"}]}}        base64 of one ECDSA signature in DER

What is signed are the bytes `DSSEv1 28 application/vnd.in-toto+json LENGTH STATEMENT`, hashed with SHA-256, SHA-384 or
SHA-512 as the key's curve is P-256, P-384 or P-521. Nothing here reads an asset or opens a connection.
"""

from __future__ import annotations

from typing import Any

import msgspec

from loader.bundle.digest import digest_of
from loader.bundle.manifest import SIGNATURE_NAME, Manifest
from loader.errors import SignatureInvalid
from loader.signatures.keys import PrivateKey, PublicKeys, hint_of, load_private_key, load_public_keys, made_with, make
from loader.signatures.rules import require_files, require_identity, require_manifest, require_names
from loader.signatures.statement import Statement, decode, decode_statement, encode_statement, signed_by_publish

__all__ = [
    "MAX_SIGNATURE_BYTES",
    "SIGNATURE_NAME",
    "PrivateKey",
    "PublicKeys",
    "Statement",
    "check",
    "load_private_key",
    "load_public_keys",
    "require_files",
    "require_identity",
    "require_manifest",
    "require_names",
    "sign",
]

MAX_SIGNATURE_BYTES = 256 * 1024 * 1024  # a million files, as many as a manifest may list

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"


class _PublicKey(msgspec.Struct):
    hint: str = ""


class _Material(msgspec.Struct, rename="camel"):
    public_key: _PublicKey
    tlog_entries: list[Any] = []


class _Signature(msgspec.Struct):
    sig: bytes


class _Envelope(msgspec.Struct, rename="camel"):
    payload_type: str
    payload: bytes
    signatures: list[_Signature]


class _SigstoreBundle(msgspec.Struct, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


def sign(manifest: Manifest, manifest_bytes: bytes, model: str, version: str, key: PrivateKey) -> bytes:
    """Return the bytes of the `model.sig` of a bundle.

    Args:
        manifest: what the bundle holds.
        manifest_bytes: its `manifest.json`, as it is uploaded.
        model: which model this is.
        version: which version of it.
        key: the author's.

    Raises:
        SignatureInvalid: what no reader would accept: no model or version, or an asset that is called model.sig.
    """
    payload = encode_statement(signed_by_publish(manifest, digest_of(manifest_bytes)), model, version)
    return msgspec.json.encode(
        _SigstoreBundle(
            _MEDIA_TYPE,
            _Material(_PublicKey(hint_of(key.public_key())), []),
            _Envelope(_PAYLOAD_TYPE, payload, [_Signature(make(key, _pre_authentication(payload)))]),
        )
    )


def check(signature: bytes, keys: PublicKeys, where: str) -> Statement:
    """Return what a signature vouches for, once it is known to be made with one of the keys.

    Args:
        signature: the bytes of `model.sig`.
        keys: any of them may have signed.
        where: what to call the signature in an error.

    Raises:
        SignatureInvalid: it is by no such key, or it is of a form that this reader does not know.
    """
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise SignatureInvalid(f"{where} has {len(signature)} bytes, expected at most {MAX_SIGNATURE_BYTES}")
    return decode_statement(_signed_payload(signature, keys, where), where)


def _signed_payload(signature: bytes, keys: PublicKeys, where: str) -> bytes:
    """Return what was signed; the rest, as large again, is let go before it is read."""
    bundle = decode(signature, _SigstoreBundle, f"{where} is not a Sigstore bundle signed by a key")
    if bundle.media_type != _MEDIA_TYPE:
        raise SignatureInvalid(f"{where} is of type {bundle.media_type[:120]!r}, expected {_MEDIA_TYPE!r}")
    envelope = bundle.dsse_envelope
    if envelope.payload_type != _PAYLOAD_TYPE:
        raise SignatureInvalid(f"{where} signs {envelope.payload_type[:120]!r}, expected {_PAYLOAD_TYPE!r}")
    if len(envelope.signatures) != 1:
        raise SignatureInvalid(f"{where} has {len(envelope.signatures)} signatures, expected one")
    message = _pre_authentication(envelope.payload)
    if not any(made_with(key, envelope.signatures[0].sig, message) for key in keys.values()):
        raise SignatureInvalid(
            f"{where} was made with none of the keys given, or changed since; tried {', '.join(keys)}",
            hint="Pass the public key of whoever published it, or find out who changed the bundle",
        )
    return envelope.payload


def _pre_authentication(payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)
