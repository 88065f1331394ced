"""Signatures: what we sign the official tool verifies, and the other way round; whatever else is there is refused."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_signing
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.bundle.digest import digest_of
from loader.bundle.manifest import MANIFEST_NAME, Asset, Manifest
from loader.bundle.models import ModelSpec
from loader.errors import SignatureInvalid, UsageError
from loader.signatures import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE_NAME,
    Statement,
    check,
    load_private_key,
    load_public_keys,
    require_files,
    require_identity,
    require_manifest,
    require_names,
    sign,
)
from tests.sources import ROOT, manifest_of, published, write_files

FILES = {
    "model.pkl": b"a pickle" * 9,
    "model.yaml": b"asset: model.pkl\n",
    "a/b/deep.npy": b"deep",
    "a.b/c": b"sorts before a/b as text, and after it as a path",
    ".pack/model.pkl/data": bytes(5000),
    "naïve name.txt": b"",
}
MANIFEST = manifest_of(FILES)
DIGESTS = {path: digest_of(data) for path, data in FILES.items()}
SPEC = ModelSpec("digits", "1", "gs://bucket/models/digits/1")
WHERE = "gs://bucket/models/digits/1/model.sig"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEYS = {"public.pem": PRIVATE.public_key()}
SIGNATURE = sign(MANIFEST, MANIFEST.encode(), "digits", "1", PRIVATE)
STATEMENT = check(SIGNATURE, KEYS, WHERE)


def private_pem(key: Any, passphrase: bytes = b"") -> bytes:
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    return pem


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


@pytest.fixture(name="pair", params=[ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: str(curve.name))
def key_pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key in PEM files, for each curve that OMS takes."""
    key = ec.generate_private_key(request.param)
    write_files(tmp_path, {"private.pem": private_pem(key), "public.pem": public_pem(key)})
    return tmp_path / "private.pem", tmp_path / "public.pem"


def official_sign(directory: Path, private: Path, hashing: model_signing.hashing.Config | None = None) -> bytes:
    hashing = hashing or model_signing.hashing.Config().set_ignored_paths(paths=[SIGNATURE_NAME])
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=private)
    config.set_hashing_config(hashing).sign(directory, directory / SIGNATURE_NAME)
    return (directory / SIGNATURE_NAME).read_bytes()


def official_verify(directory: Path, public: Path) -> None:
    """Raise ValueError unless the official tool finds that a directory is what its model.sig says."""
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.verify(directory, directory / SIGNATURE_NAME)


def envelope(payload: bytes, signature: bytes) -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }


def signed(payload: bytes, start: str = "DSSEv1 28 application/vnd.in-toto+json %d ") -> bytes:
    """A signature of any payload, made with the right key."""
    message = (start % len(payload)).encode() + payload if start else payload
    return json.dumps(envelope(payload, PRIVATE.sign(message, ec.ECDSA(hashes.SHA256())))).encode()


def decoded_parts() -> dict[str, bytes]:
    whole = json.loads(SIGNATURE)["dsseEnvelope"]
    return {
        "payload": base64.b64decode(whole["payload"]),
        "signature": base64.b64decode(whole["signatures"][0]["sig"]),
    }


def payload_of(signature: bytes) -> Any:
    return json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))


# Both ways with the official package


def test_the_official_tool_verifies_what_we_sign(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle's directory, hidden and nested files and the manifest included, is right; one changed byte is not."""
    private, public = pair
    volume = write_files(tmp_path / "volume" / "1", published(FILES))
    signature = sign(MANIFEST, MANIFEST.encode(), "digits", "1", load_private_key(private))
    (volume / SIGNATURE_NAME).write_bytes(signature)
    official_verify(volume, public)
    assert capsys.readouterr() == ("", ""), "it warns of signatures that do not name their key"
    assert check(signature, load_public_keys([public]), WHERE) == STATEMENT
    for path in [*FILES, MANIFEST_NAME]:
        right = (volume / path).read_bytes()
        (volume / path).write_bytes(right + b"!")
        with pytest.raises(ValueError, match="Hash mismatch"):
            official_verify(volume, public)
        (volume / path).write_bytes(right)
    (volume / "extra").touch()
    with pytest.raises(ValueError, match="Extra files"):
        official_verify(volume, public)


def test_what_is_signed_is_what_the_official_tool_signs(tmp_path: Path) -> None:
    """The same files in the same order, with the same digest of all of them, which other documents may refer to."""
    write_files(tmp_path, {"private.pem": private_pem(PRIVATE)})
    official = official_sign(write_files(tmp_path / "digits@1", published(FILES)), tmp_path / "private.pem")
    theirs, ours = payload_of(official), payload_of(SIGNATURE)
    assert ours["subject"] == theirs["subject"]
    assert ours["predicate"]["resources"] == theirs["predicate"]["resources"]
    assert ours.keys() == theirs.keys()


def test_we_verify_what_the_official_tool_signs(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """A plain directory that is called MODEL@VERSION when it is signed: its files, their digests and its identity."""
    private, public = pair
    directory = write_files(tmp_path / "digits@1", FILES)
    statement = check(official_sign(directory, private), load_public_keys([public]), WHERE)
    assert statement.files == DIGESTS
    require_identity(statement, SPEC, WHERE)
    assert require_names(statement, {*FILES, SIGNATURE_NAME}, "gs://bucket/models/digits/1") == frozenset()
    require_files(statement, DIGESTS, str(directory))


def test_the_documented_commands(tmp_path: Path) -> None:
    """A key made with openssl signs on the official command line; what docs/security.md says works."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    write_files(tmp_path / "digits@1", FILES)
    for command in [
        "openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
        "openssl pkey -in private.pem -pubout -out public.pem",
        f"{sys.executable} -m model_signing sign key digits@1 --signature digits@1/model.sig --private_key private.pem",
        f"{sys.executable} -m model_signing verify key digits@1 --signature digits@1/model.sig --public_key public.pem",
    ]:
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True, timeout=60)
    load_private_key(tmp_path / "private.pem")
    statement = check(
        (tmp_path / "digits@1" / SIGNATURE_NAME).read_bytes(), load_public_keys([tmp_path / "public.pem"]), WHERE
    )
    assert statement == Statement("digits", "1", DIGESTS, statement.ignored)


def test_files_that_the_signer_left_out(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """What the official tool ignored when signing is named, so that a sync can tell; nothing else passes."""
    private, public = pair
    ours = {"model.pkl": b"model", "notes/a.md": b"a"}
    directory = write_files(tmp_path / "digits@1", {**ours, ".gitattributes": b"", ".git/config": b"", "notes.md": b""})
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["notes.md", SIGNATURE_NAME])
    statement = check(official_sign(directory, private, hashing), load_public_keys([public]), WHERE)
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert require_names(statement, names, "gs://b") == {".gitattributes", ".git/config", "notes.md"}
    for strange in ["notes/b.md", "notes.md.pkl", ".gitattributes2", "x/.git/config", "manifest.json"]:
        with pytest.raises(SignatureInvalid, match=f"^gs://b: '{strange}' is not signed. Remove it"):
            require_names(statement, {*names, strange}, "gs://b")


@pytest.mark.parametrize(
    ("hashing", "expected"),
    [
        (model_signing.hashing.Config().use_shard_serialization(), "signs 'shards' with 'sha256'"),
        (model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake2"), "with 'blake2b'"),
        (model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake3"), "with 'blake3'"),
    ],
)
def test_other_settings_of_the_official_tool(
    tmp_path: Path, hashing: model_signing.hashing.Config, expected: str
) -> None:
    """Shards and other digests are refused with a sentence that says what to sign with."""
    write_files(tmp_path, {"private.pem": private_pem(PRIVATE), "digits@1/model.pkl": b"model"})
    signature = official_sign(tmp_path / "digits@1", tmp_path / "private.pem", hashing)
    with pytest.raises(SignatureInvalid, match=f"{expected}.*expected 'files' with 'sha256'. Sign it with"):
        check(signature, KEYS, WHERE)


# Keys


def test_any_key_may_match(tmp_path: Path) -> None:
    """During a rotation both the old key and the new one are given; a signature by either is right."""
    others = [ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1())]
    files = {f"{number}.pem": public_pem(key) for number, key in enumerate([others[0], PRIVATE, others[1]])}
    paths = [write_files(tmp_path, files) / name for name in files]
    assert check(SIGNATURE, load_public_keys(paths), WHERE) == STATEMENT
    with pytest.raises(SignatureInvalid) as caught:
        check(SIGNATURE, load_public_keys([paths[0], paths[2]]), WHERE)
    assert str(caught.value) == (
        f"{WHERE} was made with none of the keys given, or changed since; tried {paths[0]}, {paths[2]}. "
        "Pass the public key of whoever published it, or find out who changed the bundle"
    )


def test_no_key_matches_nothing() -> None:
    """An empty list of keys is no permission."""
    with pytest.raises(SignatureInvalid, match="none of the keys"):
        check(SIGNATURE, {}, WHERE)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (private_pem(PRIVATE), "private key, expected the public one: it should not be here. Make the public one with"),
        (public_pem(PRIVATE) * 2, "holds 2 keys, expected one. Pass --public-key once for each"),
        (public_pem(rsa.generate_private_key(65537, 2048)), "RSAPublicKey, expected an elliptic curve key on P-256"),
        (public_pem(ed25519.Ed25519PrivateKey.generate()), "Ed25519PublicKey, expected an elliptic curve key"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "secp256k1, expected an elliptic curve key on P-256"),
        (public_pem(PRIVATE)[:100], "not a public key in PEM"),
        (b"", "not a public key in PEM. Make one with `openssl pkey"),
        (b"\0\xff" * 50, "not a public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n", "not a public key in PEM"),
        (b"x" * 100_000, "more than 65536 bytes"),
    ],
    ids=itertools.count(),  # the keys are new in every run
)
def test_not_a_public_key(tmp_path: Path, content: bytes, expected: str) -> None:
    """Whatever else is given as a public key is named, with what to do."""
    path = write_files(tmp_path, {"key.pem": content}) / "key.pem"
    with pytest.raises(UsageError, match=expected) as caught:
        load_public_keys([path])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (public_pem(PRIVATE), "public key, expected the private one"),
        (private_pem(rsa.generate_private_key(65537, 2048)), "RSAPrivateKey, expected an elliptic curve key on P-256"),
        (private_pem(dsa.generate_private_key(1024)), "DSAPrivateKey, expected an elliptic curve key"),
        (private_pem(ed25519.Ed25519PrivateKey.generate()), "Ed25519PrivateKey, expected an elliptic curve key"),
        (private_pem(ec.generate_private_key(ec.SECP256K1())), "secp256k1, expected an elliptic curve key on P-256"),
        (b"nonsense", "not a private key in PEM. Make one with `openssl ecparam"),
        (private_pem(PRIVATE)[:90], "not a private key in PEM"),
    ],
    ids=itertools.count(),  # the keys are new in every run
)
def test_not_a_private_key(tmp_path: Path, content: bytes, expected: str) -> None:
    """Whatever else is given as a private key is named, with what to do, and never shown."""
    path = write_files(tmp_path, {"key.pem": content}) / "key.pem"
    with pytest.raises(UsageError, match=expected):
        load_private_key(path)


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    """A missing file and a directory are named."""
    for path in [tmp_path / "absent.pem", tmp_path]:
        with pytest.raises(UsageError, match=f"^the key {path} cannot be read: "):
            load_private_key(path)
        with pytest.raises(UsageError, match=f"^the key {path} cannot be read: "):
            load_public_keys([path])


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: serialization.PrivateFormat) -> None:
    """The passphrase comes from the environment; without it, or with another, the sentence says where to put it."""
    lock = serialization.BestAvailableEncryption(b"open sesame")
    pem = PRIVATE.private_bytes(serialization.Encoding.PEM, form, lock)
    path = write_files(tmp_path, {"private.pem": pem, "plain.pem": private_pem(PRIVATE)}) / "private.pem"
    monkeypatch.delenv("PANTRY_KEY_PASSPHRASE", raising=False)
    with pytest.raises(UsageError, match="is encrypted. Put its passphrase into PANTRY_KEY_PASSPHRASE"):
        load_private_key(path)
    monkeypatch.setenv("PANTRY_KEY_PASSPHRASE", "wrong")
    with pytest.raises(UsageError, match="the passphrase in PANTRY_KEY_PASSPHRASE does not open the key"):
        load_private_key(path)
    monkeypatch.setenv("PANTRY_KEY_PASSPHRASE", "open sesame")
    assert load_private_key(path).private_numbers() == PRIVATE.private_numbers()
    assert load_private_key(tmp_path / "plain.pem").private_numbers() == PRIVATE.private_numbers()


# The signature file under attack


def test_every_flipped_bit() -> None:
    """A flipped bit anywhere is refused, or it was in what nobody relies on and the statement is the same."""
    unheeded = 0
    for position in range(len(SIGNATURE)):
        for bit in (1, 4, 32):
            changed = bytearray(SIGNATURE)
            changed[position] ^= bit
            try:
                assert check(bytes(changed), KEYS, WHERE) == STATEMENT
            except SignatureInvalid:
                continue
            unheeded += 1
    assert unheeded < 3 * 120  # the hint, the name of an empty list, unused bits of base64


def test_flipped_bits_of_what_is_decoded() -> None:
    """Every flipped bit of the statement itself, and every one of the signature itself, is refused."""
    payload, signature = decoded_parts().values()
    assert check(json.dumps(envelope(payload, signature)).encode(), KEYS, WHERE) == STATEMENT
    for position in range(len(payload)):
        changed = payload[:position] + bytes([payload[position] ^ 1]) + payload[position + 1 :]
        with pytest.raises(SignatureInvalid, match="none of the keys"):
            check(json.dumps(envelope(changed, signature)).encode(), KEYS, WHERE)
    for position in range(len(signature)):
        changed = signature[:position] + bytes([signature[position] ^ 1]) + signature[position + 1 :]
        with pytest.raises(SignatureInvalid, match="none of the keys"):
            check(json.dumps(envelope(payload, changed)).encode(), KEYS, WHERE)


def test_truncated() -> None:
    """No part of a signature file is a signature."""
    for end in range(len(SIGNATURE)):
        with pytest.raises(SignatureInvalid, match="not a Sigstore bundle signed by a key"):
            check(SIGNATURE[:end], KEYS, WHERE)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["file", "payload", "signature"]), st.data())
def test_random_changes(part: str, data: st.DataObject) -> None:
    """However a signature file, or what it encodes, is cut or overwritten: it says what was signed, or is refused."""
    parts = decoded_parts()
    original = changed = SIGNATURE if part == "file" else parts[part]
    for _ in range(data.draw(st.integers(1, 4))):
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(changed))] * 2)))
        piece = data.draw(st.one_of(st.binary(max_size=8), st.just(changed[start:end] * 2), st.just(original)))
        changed = changed[:start] + piece + changed[end:]
    file = changed if part == "file" else json.dumps(envelope(**(parts | {part: changed}))).encode()
    try:
        assert check(file, KEYS, WHERE) == STATEMENT
    except SignatureInvalid:
        assert changed != original


def test_huge() -> None:
    """A file that is larger than any signature is not looked at."""
    with pytest.raises(SignatureInvalid, match="bytes, expected at most 268435456"):
        check(bytes(MAX_SIGNATURE_BYTES + 1), KEYS, WHERE)


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"verificationMaterial":{"tlogEntries":' + b"[" * 100_000,
        b"\0" * 100,
    ],
)
def test_not_a_signature(content: bytes) -> None:
    """What is no signature file, however deep, is refused with a sentence."""
    with pytest.raises(SignatureInvalid, match="not a Sigstore bundle signed by a key.*Sign it with `pantry publish"):
        check(content, KEYS, WHERE)


def edited(*path: str | int, to: Any) -> Callable[[Any], None]:
    """An edit that puts a value into nested JSON."""

    def edit(whole: Any) -> None:
        for step in path[:-1]:
            whole = whole[step]
        whole[path[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (edited("dsseEnvelope", "payloadType", to="text/plain"), "signs 'text/plain', expected 'application/vnd"),
        (edited("dsseEnvelope", "payloadType", to=PAYLOAD_TYPE + " "), "in-toto[+]json ', expected"),
        (edited("mediaType", to="application/vnd.dev.sigstore.bundle+json;version=0.1"), "is of type"),
        (edited("dsseEnvelope", "signatures", to=[]), "has 0 signatures, expected one"),
        (edited("dsseEnvelope", "signatures", to=[{"sig": ""}]), "none of the keys"),
        (edited("dsseEnvelope", "signatures", to=[{"sig": "AAAA"}, {"sig": "AAAA"}]), "has 2 signatures, expected one"),
        (edited("dsseEnvelope", "signatures", 0, "sig", to="MEU="), "none of the keys"),
        (edited("dsseEnvelope", "signatures", 0, "sig", to="MEU"), "not a Sigstore bundle .*base64"),
        (edited("dsseEnvelope", "payload", to="e30="), "none of the keys"),
        (edited("dsseEnvelope", "payload", to="e30=\n"), "not a Sigstore bundle .*base64"),
        (edited("dsseEnvelope", "payload", to=None), "not a Sigstore bundle"),
        (edited("dsseEnvelope", to=None), "not a Sigstore bundle"),
        (edited("verificationMaterial", to={"certificate": {"rawBytes": ""}}), "bundle signed by a key: .*publicKey"),
    ],
)
def test_edited_envelope(edit: Callable[[Any], None], expected: str) -> None:
    """Another type, none or more signatures, broken base64 or a certificate: each has its sentence."""
    whole = json.loads(SIGNATURE)
    edit(whole)
    with pytest.raises(SignatureInvalid, match=expected) as caught:
        check(json.dumps(whole).encode(), KEYS, WHERE)
    assert str(caught.value).startswith(WHERE)


@pytest.mark.parametrize(
    "start",
    [
        "",
        "DSSEV1 28 application/vnd.in-toto+json %d ",
        "DSSEv1 10 text/plain %d ",
        "DSSEv1 28 application/vnd.in-toto+json 1%d ",
    ],
    ids=["raw payload", "as in version 0.2", "another type", "another length"],
)
def test_signed_without_its_frame(start: str) -> None:
    """A signature of the payload alone, or of it in another frame, could have been made for another purpose."""
    payload = json.dumps(payload_of(SIGNATURE)).encode()
    assert check(signed(payload), KEYS, WHERE) == STATEMENT
    with pytest.raises(SignatureInvalid, match="none of the keys"):
        check(signed(payload, start), KEYS, WHERE)


def test_signed_by_a_stranger() -> None:
    """A bundle that somebody else signed, with a hint at our key, is refused."""
    forged = json.loads(sign(MANIFEST, MANIFEST.encode(), "digits", "1", ec.generate_private_key(ec.SECP256R1())))
    forged["verificationMaterial"] = json.loads(SIGNATURE)["verificationMaterial"]
    with pytest.raises(SignatureInvalid, match="none of the keys"):
        check(json.dumps(forged).encode(), KEYS, WHERE)


def resources(*pairs: tuple[str, str]) -> Callable[[Any], None]:
    """An edit that replaces the signed files, with a subject that agrees."""

    def edit(whole: Any) -> None:
        listed = [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in pairs]
        whole["predicate"]["resources"] = listed
        root = digest_of(b"".join(bytes.fromhex(digest) for _, digest in pairs))
        whole["subject"][0]["digest"]["sha256"] = root.removeprefix("sha256:")

    return edit


A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (resources(("a", A), ("a", B)), "signs 'a', which is twice there"),
        (resources(("a", A), ("a", A)), "signs 'a', which is twice there"),
        *[
            (resources(("fine", A), (name, B)), "or no file of a bundle")
            for name in ["", "/etc/passwd", "../up", "a/../../up", "./a", "a//b", "a/", ".", "..", SIGNATURE_NAME]
        ],
        (resources(), "signs no files, expected at least one"),
        (resources(("a", A[:62])), "signs 'a' as 'sha256:a+', expected sha256:<64 hex digits>"),
        (resources(("a", A.upper())), "expected sha256:<64 hex digits>"),
        (edited("predicate", "resources", 0, "algorithm", to="blake2b"), "as 'blake2b:"),
        (edited("predicate", "resources", 0, "digest", to=A), "contradicts itself"),
        (edited("predicate", "resources", 0, "digest", to="no hex"), "contradicts itself"),
        (edited("subject", 0, "digest", to={"sha256": ""}), "contradicts itself"),
        (edited("subject", 0, "digest", to={}), "contradicts itself"),
        (edited("subject", to=[]), "contradicts itself"),
        (edited("_type", to="https://in-toto.io/Statement/v0.1"), "signs 'https://in-toto.io/Statement/v0.1' with"),
        (edited("predicateType", to="https://slsa.dev/provenance/v1"), "'https://slsa.dev/provenance/v1', expected"),
        (edited("predicateType", to="https://model_signing/Digests/v0.1"), "Sign it again with model_signing 1.0"),
        (edited("predicate", to={}), "signs no list of files"),
        (edited("predicate", "resources", to=["model.pkl"]), "signs no list of files"),
        (edited("subject", to="digits@1"), "does not sign an in-toto statement about a model"),
    ],
)
def test_signed_nonsense(edit: Callable[[Any], None], expected: str) -> None:
    """A statement that is signed, but cannot be about a directory of files, is refused with a sentence."""
    whole = payload_of(SIGNATURE)
    edit(whole)
    with pytest.raises(SignatureInvalid, match=expected) as caught:
        check(signed(json.dumps(whole).encode()), KEYS, WHERE)
    assert str(caught.value).startswith(WHERE)


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("payload", [b"", b"\xff", b"[" * 100_000, b'"text"'])
def test_signed_noise(payload: bytes) -> None:
    """A payload that is signed, but no statement, is refused with a sentence."""
    with pytest.raises(SignatureInvalid, match="does not sign an in-toto statement"):
        check(signed(payload), KEYS, WHERE)


def test_keys_of_a_later_format() -> None:
    """Keys that this version does not know mean nothing, as OMS wants it."""
    whole = payload_of(SIGNATURE)
    whole["predicate"]["later"] = whole["later"] = {"a": [1, 2.5, None]}
    assert check(signed(json.dumps(whole).encode()), KEYS, WHERE) == STATEMENT


# The bundle under attack


def test_the_signed_bundle() -> None:
    """The bundle that was signed passes, by its manifest alone."""
    require_manifest(STATEMENT, MANIFEST, MANIFEST.digest, "gs://bucket/models/digits/1")
    require_identity(STATEMENT, SPEC, WHERE)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (FILES | {"model.pkl": FILES["model.yaml"], "model.yaml": FILES["model.pkl"]}, "'manifest.json'"),
        (FILES | {"extra": b""}, "'extra' is not what was signed: expected no such file, got sha256:"),
        ({"other.pkl": FILES["model.pkl"]}, "'.pack/model.pkl/data' is not what was signed: .*, got no such file"),
        ({path: data for path, data in FILES.items() if path != "a.b/c"}, "'a.b/c' .* got no such file"),
    ],
    ids=["swapped", "extra", "renamed", "missing"],
)
def test_another_bundle(files: dict[str, bytes], expected: str) -> None:
    """Files that are swapped, added, renamed or left out are refused, whether or not the manifest says so itself."""
    manifest = manifest_of(files)
    for digest in [manifest.digest, MANIFEST.digest]:
        with pytest.raises(SignatureInvalid, match=expected if digest == manifest.digest else "is not what was signed"):
            require_manifest(STATEMENT, manifest, digest, "gs://bucket/models/digits/1")


def test_another_manifest_of_the_same_files() -> None:
    """The manifest is signed as a file: other chunk digests, which are read by, are another bundle."""
    rechunked = manifest_of(FILES, chunk_size=1000)
    with pytest.raises(SignatureInvalid, match="'manifest.json' is not what was signed"):
        require_manifest(STATEMENT, rechunked, rechunked.digest, "gs://bucket/models/digits/1")


@pytest.mark.parametrize(
    ("model", "version", "expected"),
    [
        ("digits", "2", "is signed for digits version 2, models.yaml asks for digits version 1. Correct storageUri"),
        ("letters", "1", "is signed for letters version 1, models.yaml asks for digits version 1"),
        ("digits", "1@1", "is signed for digits version 1@1, models.yaml"),
        ("digit", "s@1", "is signed for digit version s@1, models.yaml"),
    ],
)
def test_replay(model: str, version: str, expected: str) -> None:
    """A right signature of another version, or of another model, is refused with both names."""
    statement = check(sign(MANIFEST, MANIFEST.encode(), model, version, PRIVATE), KEYS, WHERE)
    assert (statement.model, statement.version) == (model, version)
    with pytest.raises(SignatureInvalid, match=f"^{WHERE} {expected}"):
        require_identity(statement, SPEC, WHERE)
    require_identity(statement, ModelSpec(model, version, "gs://elsewhere"), WHERE)


def test_a_signature_without_a_version(tmp_path: Path) -> None:
    """The official tool signs a directory of any name; then only the pinned digest of a signed manifest says which."""
    write_files(tmp_path, {"private.pem": private_pem(PRIVATE)})
    directory = write_files(tmp_path / "digits", published(FILES))
    statement = check(official_sign(directory, tmp_path / "private.pem"), KEYS, WHERE)
    assert (statement.model, statement.version) == ("digits", None)
    require_manifest(statement, MANIFEST, MANIFEST.digest, str(directory))
    require_identity(statement, ModelSpec("digits", "1", "gs://b", digest=MANIFEST.digest), WHERE)
    for digest in [None, digest_of(b"another manifest"), DIGESTS["model.pkl"]]:
        with pytest.raises(
            SignatureInvalid, match="for 'digits' and no version, models.yaml asks for digits version 1"
        ):
            require_identity(statement, ModelSpec("digits", "1", "gs://b", digest=digest), WHERE)
    del statement.files[MANIFEST_NAME]  # as of a plain prefix
    with pytest.raises(SignatureInvalid, match="or sign a directory named digits@1"):
        require_identity(statement, SPEC, WHERE)


def test_a_published_bundle_does_not_pass_as_a_plain_prefix() -> None:
    """Whoever removes the manifest from a published prefix removes what is signed."""
    with pytest.raises(SignatureInvalid, match=f"^gs://b: '{MANIFEST_NAME}' is signed, but there is no such object"):
        require_names(STATEMENT, FILES, "gs://b")


def test_a_plain_prefix_does_not_pass_as_a_published_bundle(tmp_path: Path) -> None:
    """Whoever adds a manifest to a plain prefix adds what is not signed."""
    write_files(tmp_path, {"private.pem": private_pem(PRIVATE)})
    signature = official_sign(write_files(tmp_path / "digits@1", FILES), tmp_path / "private.pem")
    with pytest.raises(SignatureInvalid, match="'manifest.json' is not what was signed: expected no such file"):
        require_manifest(check(signature, KEYS, WHERE), MANIFEST, MANIFEST.digest, "gs://b")


def test_another_plain_prefix() -> None:
    """Objects that are renamed, added or gone are refused by their names; other bytes by their digests on arrival."""
    statement = Statement("digits", "1", DIGESTS)
    assert require_names(statement, FILES, "gs://b") == frozenset()
    with pytest.raises(SignatureInvalid, match="^gs://b: 'model.pkl' is signed, but there is no such object"):
        require_names(statement, FILES.keys() - {"model.pkl"}, "gs://b")
    for extra in ["extra.pkl", "sub/model.sig", "MODEL.SIG"]:
        with pytest.raises(SignatureInvalid, match=f"^gs://b: '{extra}' is not signed"):
            require_names(statement, {*FILES, extra}, "gs://b")
    with pytest.raises(SignatureInvalid, match="'model.pkl' is not what was signed: expected sha256:.*, got sha256:"):
        require_files(statement, DIGESTS | {"model.pkl": digest_of(b"other bytes")}, "gs://b")


@pytest.mark.parametrize(("model", "version"), [("", "1"), ("digits", ""), ("digits@1", "2")])
def test_no_identity_to_sign(model: str, version: str) -> None:
    """A signature that could be taken for that of another version is not made."""
    with pytest.raises(SignatureInvalid, match="a signature names a model and a version.*Publish to a URI"):
        sign(MANIFEST, MANIFEST.encode(), model, version, PRIVATE)


def test_a_signature_among_the_files() -> None:
    """A model.sig that lies in the directory already is not signed over: no tool would hash it."""
    manifest = manifest_of(FILES | {SIGNATURE_NAME: b"an old one"})
    with pytest.raises(SignatureInvalid, match="has a file model.sig of its own"):
        sign(manifest, manifest.encode(), "digits", "1", PRIVATE)


def test_signing_again(pair: tuple[Path, Path]) -> None:
    """The same bundle signed with the same key gives the same file: what a killed publish has uploaded stays right."""
    first, second = (sign(MANIFEST, MANIFEST.encode(), "digits", "1", load_private_key(pair[0])) for _ in range(2))
    assert first == second


# What it costs


def test_no_asset_is_read() -> None:
    """Signing and checking take the manifest's word for a file's digest: a petabyte costs as much as a byte."""
    manifest = Manifest((Asset("model.pkl", 10**15, f"sha256:{A}"),))
    statement = check(sign(manifest, manifest.encode(), "digits", "1", PRIVATE), KEYS, WHERE)
    require_manifest(statement, manifest, manifest.digest, "gs://b")
    assert statement.files["model.pkl"] == f"sha256:{A}"


OFFLINE = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
from pathlib import Path
from loader import signatures
from loader.bundle.digest import digest_of
from loader.bundle.manifest import Asset, Manifest
manifest = Manifest((Asset("model.pkl", 1, digest_of(b"x")),))
signature = signatures.sign(manifest, manifest.encode(), "digits", "1", signatures.load_private_key(Path(sys.argv[1])))
statement = signatures.check(signature, signatures.load_public_keys([Path(sys.argv[2])]), "model.sig")
signatures.require_manifest(statement, manifest, manifest.digest, "here")
print(*sorted({"sigstore", "model_signing", "google", "requests", "urllib3", "ssl", "http"} & sys.modules.keys()))
"""


def test_offline_and_light(tmp_path: Path) -> None:
    """Signing and checking open no socket, need no network, and import no HTTP client and nothing of Sigstore."""
    write_files(tmp_path, {"private.pem": private_pem(PRIVATE), "public.pem": public_pem(PRIVATE)})
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        alone = []  # not permitted here: the audit hook alone must do
    child = subprocess.run(
        [*alone, sys.executable, "-W", "error", "-c", OFFLINE, tmp_path / "private.pem", tmp_path / "public.pem"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "\n", "")
