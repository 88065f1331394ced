"""The commands together: keys and packs from `publish` over `sync` to `verify`, as real processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loader.bundle.bundle import Bundle
from loader.bundle.manifest import SIGNATURE_NAME
from tests.sources import ROOT, digits, pantry, write_models


def key_pair(tmp_path: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(name="source")
def source_directory(tmp_path: Path) -> Path:
    """A model that packs well."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.pkl").write_bytes(pickle.dumps({str(n): np.full(100, n, np.float32) for n in range(20_000)}))
    return source


def test_a_signed_bundle(source: Path, tmp_path: Path) -> None:
    """Signed by one of the keys a sync asks for: it arrives, packed and signed, and verifies on the volume."""
    private, public = key_pair(tmp_path, "ours")
    _, other = key_pair(tmp_path, "other")
    uri = f"file://{tmp_path}/digits/1"
    assert pantry("publish", source, uri, "--key", private)[0] == 0
    models = write_models(tmp_path / "models.yaml", digits(uri))
    volume = tmp_path / "volume"
    volume.mkdir()
    keys = ("--public-key", other, "--public-key", public)
    assert pantry("plan", "--models", models, "--volume", volume, *keys)[0] == 0
    code, events = pantry("sync", "--models", models, "--volume", volume, *keys)
    assert code == 0, events
    bundle = volume / "digits/1"
    assert (bundle / SIGNATURE_NAME).is_file()
    code, (event,) = pantry("verify", bundle, *keys)
    assert (code, event["message"].endswith(", signed")) == (0, True)
    assert not isinstance(Bundle.open(bundle).find_pack("model.pkl"), str)


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_a_bundle_that_nobody_trusted_has_signed(source: Path, tmp_path: Path, command: str) -> None:
    """Unsigned, or signed by a stranger, or for another version: refused before a byte of an asset moves."""
    private, _ = key_pair(tmp_path, "stranger")
    _, public = key_pair(tmp_path, "ours")
    volume = tmp_path / "volume"
    volume.mkdir()
    uri = f"file://{tmp_path}/digits/1"
    assert pantry("publish", source, uri, "--no-pack")[0] == 0
    unsigned = write_models(tmp_path / "unsigned.yaml", digits(uri))
    code, events = pantry(command, "--models", unsigned, "--volume", volume, "--public-key", public)
    assert (code, "expected a signature" in events[-1]["message"]) == (1, True)
    uri = f"file://{tmp_path}/digits/2"
    assert pantry("publish", source, uri, "--no-pack", "--key", private)[0] == 0
    strange = write_models(tmp_path / "strange.yaml", digits(uri, "2"))
    code, events = pantry(command, "--models", strange, "--volume", volume, "--public-key", public)
    assert code == 1
    replayed = write_models(tmp_path / "replayed.yaml", digits(uri, "3"))
    code, events = pantry(command, "--models", replayed, "--volume", volume, "--public-key", tmp_path / "stranger.pub")
    assert (code, "2" in events[-1]["message"] and "3" in events[-1]["message"]) == (1, True)
    assert not list(volume.rglob("*.pkl"))


def test_a_plain_prefix_is_packed_where_it_is_asked_for(source: Path, tmp_path: Path) -> None:
    """`sync --pack` packs on the volume; verify compares such packs with the record beside them."""
    models = write_models(tmp_path / "models.yaml", digits(source))
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume", "--pack")
    assert code == 0
    assert [event["phase"] for event in events] == ["syncing", "packing", "packed", "verifying", "synced"]
    bundle = tmp_path / "volume/digits/1"
    assert not isinstance(Bundle.open(bundle).find_pack("model.pkl"), str)
    code, (event,) = pantry("verify", bundle)
    assert (code, "and 1 packs made here" in event["message"]) == (0, True)
    (pack,) = (path for path in (bundle / ".pack").iterdir() if path.name != "pack.json")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    code, events = pantry("verify", bundle)
    assert code == 1
    assert all(".pack/" in event["message"] and "expected sha256:" in event["message"] for event in events)


def test_a_published_pack_is_not_made_again(source: Path, tmp_path: Path) -> None:
    """What `publish` packed, `sync --pack` takes as it is."""
    assert pantry("publish", source, f"file://{tmp_path}/store")[0] == 0
    models = write_models(tmp_path / "models.yaml", digits(tmp_path / "store"))
    code, events = pantry("sync", "--models", models, "--volume", tmp_path / "volume", "--pack")
    assert (code, [event["phase"] for event in events]) == (0, ["syncing", "verifying", "synced"])


def test_the_next_version_reuses_what_is_there(source: Path, tmp_path: Path) -> None:
    """A file with the same content is linked, not moved: both versions are whole, and stay so without the other."""
    (source / "table.bin").write_bytes(b"t" * 9_000_000)
    models = tmp_path / "models.yaml"
    for version in ("1", "2"):
        (source / "words.txt").write_text(f"of version {version}")
        assert pantry("publish", source, f"file://{tmp_path}/store/{version}", "--no-pack")[0] == 0
        write_models(models, digits(tmp_path / "store" / version, version))
        assert pantry("sync", "--models", models, "--volume", tmp_path / "volume")[0] == 0
    first, second = (tmp_path / "volume/digits" / version for version in ("1", "2"))
    assert (first / "table.bin").samefile(second / "table.bin")
    assert (first / "words.txt").read_text() != (second / "words.txt").read_text()
    assert pantry("sync", "--models", models, "--volume", tmp_path / "volume", "--retain", "1")[0] == 0
    assert not first.exists()
    assert pantry("verify", second)[0] == 0


def test_pack_and_inspect(source: Path, tmp_path: Path) -> None:
    """`pack` writes beside the pickle and says what it gained; `inspect` prints globals, for people and programs."""
    code, events = pantry("pack", source)
    assert (code, events[-1]["phase"]) == (0, "packed")
    assert (source / ".pack/pack.json").is_file()
    for arguments in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "loader.cli", "inspect", str(source / "model.pkl"), *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert "numpy" in done.stdout
        if arguments:
            assert json.loads(done.stdout)["parts"][0]["protocol"] == 4
    missing = subprocess.run(
        [sys.executable, "-m", "loader.cli", "inspect", str(tmp_path / "gone.pkl")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert missing.returncode == 2
    assert "gone.pkl" in missing.stderr
    assert "Traceback" not in missing.stderr
