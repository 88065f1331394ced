"""Keys: read from PEM files, elliptic curve keys on the curves that OMS takes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loader.errors import UsageError

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey
PublicKeys: TypeAlias = Mapping[str, PublicKey]  # by the file that each came from
PASSPHRASE_VARIABLE = "PANTRY_KEY_PASSPHRASE"  # noqa: S105 -- the name of one

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_MAX_KEY_BYTES = 64 * 1024
_HOW_TO_MAKE_A_KEY = "Make one with `openssl ecparam -name prime256v1 -genkey -noout -out private.pem`"


def load_private_key(path: Path) -> PrivateKey:
    """Read the key to sign with; an encrypted one with the passphrase in PANTRY_KEY_PASSPHRASE.

    Raises:
        UsageError: it cannot be read, is no private key in PEM, of another kind, or its passphrase is missing or wrong.
    """
    data = _read_key(path)
    if b"PUBLIC KEY-----" in data:
        raise UsageError(f"{path} holds a public key, expected the private one", hint="Pass private.pem")
    encrypted = b"ENCRYPTED" in data
    passphrase = os.environb.get(PASSPHRASE_VARIABLE.encode()) if encrypted else None
    if encrypted and not passphrase:
        raise UsageError(f"{path} is encrypted", hint=f"Put its passphrase into {PASSPHRASE_VARIABLE}")
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise UsageError(f"the passphrase in {PASSPHRASE_VARIABLE} does not open the key {path}") from error
        raise UsageError(f"{path} is not a private key in PEM", hint=_HOW_TO_MAKE_A_KEY) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise _other_kind(path, key)
    return key


def load_public_keys(paths: Sequence[Path]) -> PublicKeys:
    """Read the keys of which any may have signed a bundle.

    Raises:
        UsageError: one cannot be read, is no public key in PEM, or of another kind.
    """
    return {str(path): _load_public_key(path) for path in paths}


def make(key: PrivateKey, message: bytes) -> bytes:
    """Return the ECDSA signature of a message, in DER, over the hash that belongs to the key's curve.

    Without a random number (RFC 6979): signing again gives the same bytes, so publishing again changes nothing.
    """
    return key.sign(message, ec.ECDSA(_HASHES[key.curve.name], deterministic_signing=True))


def made_with(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Tell whether a signature of a message is by this key."""
    try:
        key.verify(signature, message, ec.ECDSA(_HASHES[key.curve.name]))
    except InvalidSignature:
        return False
    return True


def hint_of(key: PublicKey) -> str:
    """Name a public key; the official tool refuses a signature that names another than it verifies with."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_KEY_BYTES:
        raise UsageError(f"{path} has more than {_MAX_KEY_BYTES} bytes, expected a key in PEM")
    return data


def _load_public_key(path: Path) -> PublicKey:
    data = _read_key(path)
    if b"PRIVATE KEY-----" in data:
        raise UsageError(
            f"{path} holds a private key, expected the public one: it should not be here",
            hint=f"Make the public one with `openssl pkey -in {path} -pubout`",
        )
    if (count := data.count(b"-----BEGIN ")) > 1:
        raise UsageError(f"{path} holds {count} keys, expected one", hint="Pass --public-key once for each, in a file")
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{path} is not a public key in PEM",
            hint="Make one with `openssl pkey -in private.pem -pubout -out public.pem`",
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise _other_kind(path, key)
    return key


def _other_kind(path: Path, key: object) -> UsageError:
    kind = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    return UsageError(
        f"{path} is a key of the kind {kind}, expected an elliptic curve key on P-256, P-384 or P-521",
        hint=_HOW_TO_MAKE_A_KEY,
    )
