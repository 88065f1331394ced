"""Moving bytes: parallel, verified, resumed, and stubborn against a store that breaks off or sends wrong bytes."""

from __future__ import annotations

import os
import re
import resource
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader import transfer
from loader.bundle.errors import DigestMismatch
from loader.bundle.manifest import Asset
from loader.errors import ObjectNotFound, SourceUnavailable
from loader.transfer import READ_AHEAD, Wanted, fetch
from tests.sources import MemorySource, asset, crc32c, read_files, write_files

CHUNK = 1000
DATA = os.urandom(10 * CHUNK + 17)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(transfer, "FIRST_PAUSE_SECONDS", 0.001)


def wanted(source: MemorySource, chunk_size: int = CHUNK) -> list[Wanted]:
    """What a published bundle's sync wants of a source: every object, with its digests known."""
    right = {name: asset(name, data, chunk_size) for name, data in source.objects.items()}
    return [Wanted(stored, right[stored.name], chunk_size) for stored in source.list()]


def wanted_prefix(source: MemorySource, chunk_size: int = CHUNK) -> list[Wanted]:
    """What a plain prefix's sync wants: every object, with no digest known beforehand."""
    return [Wanted(stored, None, chunk_size) for stored in source.list()]


def run(source: MemorySource, items: list[Wanted], staging: Path) -> tuple[list[Asset], int]:
    """Fetches, and returns the assets and the bytes that were reported."""
    reported: list[int] = []
    staging.mkdir(exist_ok=True)
    assets = fetch(source, items, staging, lambda count, _: reported.append(count))
    return assets, sum(reported)


files = {"model.pkl": DATA, "a/table.npy": DATA[:CHUNK], "a/b/small": b"x", "empty": b"", "two": DATA[: 2 * CHUNK]}


@pytest.mark.parametrize("with_crc32c", [True, False])
@pytest.mark.parametrize("want", [wanted, wanted_prefix])
def test_fetch(tmp_path: Path, want: object, with_crc32c: bool) -> None:
    """All files arrive with their bytes, in order, with their digests; every byte is read and reported once."""
    source = MemorySource(files, with_crc32c=with_crc32c)
    items = wanted(source) if want is wanted else wanted_prefix(source)
    assets, reported = run(source, items, tmp_path / "staging")
    assert read_files(tmp_path / "staging") == files
    assert [item.path for item in assets] == list(files)
    assert [(item.digest, item.chunks) for item in assets] == [
        (right.digest, right.chunks) for right in (asset(name, data, CHUNK) for name, data in files.items())
    ]
    assert source.moved == reported == sum(map(len, files.values()))


def test_prefix_is_pinned(tmp_path: Path) -> None:
    """An asset of a plain prefix remembers the generation and the crc32c of the object it came from."""
    source = MemorySource({"model.pkl": DATA})
    source.replace("model.pkl", DATA)
    (fetched,), _ = run(source, wanted_prefix(source), tmp_path / "staging")
    assert fetched.pin is not None
    assert (fetched.pin.generation, fetched.pin.crc32c) == ("2", crc32c(DATA))


def test_parallel(tmp_path: Path) -> None:
    """Several reads of one file are under way at a time."""
    source = MemorySource({"model.pkl": DATA})
    source.slow = 0.02
    began = time.monotonic()
    run(source, wanted(source), tmp_path / "staging")
    assert source.most_reading > 3
    assert time.monotonic() - began < 11 * 0.02


@pytest.mark.parametrize("with_crc32c", [True, False])
def test_breaks(tmp_path: Path, with_crc32c: bool) -> None:
    """Reads that break off, or give fewer bytes than asked for, are made again."""
    source = MemorySource(files, with_crc32c=with_crc32c)
    source.breaks.update({"model.pkl": 9, "two": 2})
    source.truncates.update({"model.pkl": 3, "a/b/small": 1})
    run(source, wanted(source), tmp_path / "staging")
    assert read_files(tmp_path / "staging") == files


def test_breaks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that only breaks off is given up with a sentence; what had arrived is kept and not fetched again."""
    monkeypatch.setattr(transfer, "GIVE_UP_AFTER_SECONDS", 0.1)
    source = MemorySource({"a": DATA, "b": DATA})
    source.breaks["b"] = 10**9
    with pytest.raises(SourceUnavailable, match=r"the connection was reset \(tried for 0 s\)\. Check the network"):
        run(source, wanted(source), tmp_path / "staging")
    assert read_files(tmp_path / "staging")["a"] == DATA
    source.breaks.clear()
    source.moved = 0
    run(source, wanted(source), tmp_path / "staging")
    assert read_files(tmp_path / "staging") == source.objects
    assert source.moved == len(DATA)


def test_passing_damage(tmp_path: Path) -> None:
    """A chunk that arrives wrong once or twice is fetched again, and alone."""
    source = MemorySource({"model.pkl": DATA})
    source.flips["model.pkl"] = 2
    run(source, wanted(source), tmp_path / "staging")
    assert read_files(tmp_path / "staging") == source.objects
    assert source.reads["model.pkl"] == 11 + 2


def test_lasting_damage(tmp_path: Path) -> None:
    """A chunk that is wrong every time fails the asset, by its bytes; no wrong byte is on disk."""
    source = MemorySource({"model.pkl": DATA})
    items = wanted(source)
    position = 5 * CHUNK + 500
    source.objects["model.pkl"] = DATA[:position] + bytes([DATA[position] ^ 1]) + DATA[position + 1 :]
    with pytest.raises(DigestMismatch, match=r"model\.pkl is damaged: bytes 5000 to 6000 have digest sha256:"):
        run(source, items, tmp_path / "staging")
    assert DATA.startswith((tmp_path / "staging" / "model.pkl").read_bytes())


def test_failure_ends_the_other_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one file is refused, readers that wait to try another chunk again do not hold up the end."""
    monkeypatch.setattr(transfer, "FIRST_PAUSE_SECONDS", 20.0)
    monkeypatch.setattr(transfer, "GIVE_UP_AFTER_SECONDS", 300.0)
    source = MemorySource({"gone": b"x", "broken": DATA})
    items = wanted(source)
    source.breaks["broken"] = 10**9
    del source.objects["gone"]
    began = time.monotonic()
    with pytest.raises(ObjectNotFound, match="gone: not found"):
        run(source, items, tmp_path / "staging")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("want", [wanted, wanted_prefix])
def test_damaged_crc32c(tmp_path: Path, want: object) -> None:
    """A plain prefix's file with another crc32c than the listing's is refused, and is not resumed from."""
    source = MemorySource({"model.pkl": DATA})
    items = wanted(source) if want is wanted else wanted_prefix(source)
    source.objects["model.pkl"] = DATA[:-1] + bytes([DATA[-1] ^ 1])
    with pytest.raises(DigestMismatch, match=r"model\.pkl is damaged"):
        run(source, items, tmp_path / "staging")
    source.objects["model.pkl"] = DATA
    run(source, items, tmp_path / "staging")
    assert read_files(tmp_path / "staging") == source.objects


def test_replaced_object(tmp_path: Path) -> None:
    """An object that is replaced while it is read is not mixed: its pinned generation is gone, says the error."""
    source = MemorySource({"model.pkl": DATA})
    source.replace_after["model.pkl"] = 5
    with pytest.raises(ObjectNotFound, match="replaced since it was listed"):
        run(source, wanted(source), tmp_path / "staging")


def test_vanished_object(tmp_path: Path) -> None:
    """An object that disappears after the listing is named."""
    source = MemorySource({"model.pkl": DATA})
    items = wanted(source)
    source.objects.clear()
    with pytest.raises(ObjectNotFound, match=re.escape("model.pkl")):
        run(source, items, tmp_path / "staging")


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 5 * CHUNK + 1, len(DATA) - 1, len(DATA)])
@pytest.mark.parametrize("want", [wanted, wanted_prefix])
def test_resume(tmp_path: Path, want: object, size: int) -> None:
    """A restart keeps the whole chunks that are there, fetches the rest, and reports all bytes as there."""
    source = MemorySource({"model.pkl": DATA})
    write_files(tmp_path / "staging", {"model.pkl": DATA[:size]})
    items = wanted(source) if want is wanted else wanted_prefix(source)
    _, reported = run(source, items, tmp_path / "staging")
    assert read_files(tmp_path / "staging") == source.objects
    kept = size if size == len(DATA) else size // CHUNK * CHUNK
    assert source.moved == len(DATA) - kept
    assert reported == len(DATA)


def test_resume_without_digests(tmp_path: Path) -> None:
    """Where the store tells no crc32c and there is no manifest, nothing on disk is trusted."""
    source = MemorySource({"model.pkl": DATA}, with_crc32c=False)
    write_files(tmp_path / "staging", {"model.pkl": bytes(len(DATA))})
    run(source, wanted_prefix(source), tmp_path / "staging")
    assert read_files(tmp_path / "staging") == source.objects
    assert source.moved == len(DATA)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.binary(max_size=200), st.binary(max_size=300), st.integers(1, 40), st.booleans())
def test_resume_from_anything(tmp_path: Path, data: bytes, left: bytes, chunk_size: int, begins_right: bool) -> None:
    """Whatever lies in the staging directory under an asset's name: the file ends with the right bytes."""
    source = MemorySource({"model.pkl": data})
    staging = write_files(tmp_path / "staging", {"model.pkl": data[: len(left)] + left if begins_right else left})
    run(source, wanted(source, chunk_size), staging)
    assert read_files(staging) == {"model.pkl": data}


def test_link_in_staging(tmp_path: Path) -> None:
    """A symbolic link under an asset's name is not written through."""
    source = MemorySource({"model.pkl": DATA})
    write_files(tmp_path, {"outside": b"mine"})
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "model.pkl").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic links"):
        run(source, wanted(source), tmp_path / "staging")
    assert (tmp_path / "outside").read_bytes() == b"mine"


@pytest.mark.parametrize("already_there", [False, True])
@pytest.mark.parametrize("content", [b"", b"x"])
def test_many_small_files(tmp_path: Path, already_there: bool, content: bytes) -> None:
    """A bundle of more files than may be open at once is no problem, new or resumed."""
    source = MemorySource({f"{number:04}": content for number in range(400)})
    if already_there:
        write_files(tmp_path / "staging", source.objects)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
    try:
        run(source, wanted(source), tmp_path / "staging")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_files(tmp_path / "staging") == source.objects


def test_read_ahead_is_bounded(tmp_path: Path) -> None:
    """However slow the volume is, and however many files there are: only so many chunks are read ahead of it."""
    source = MemorySource({f"{number:04}": b"x" for number in range(200)} | {"large": DATA})
    written: list[int] = []

    def slow_volume(count: int, _: str) -> None:
        written.append(count)
        if len(written) % 10 == 0:
            time.sleep(0.01)
            assert sum(source.reads.values()) <= len(written) + READ_AHEAD

    (tmp_path / "staging").mkdir()
    fetch(source, wanted(source), tmp_path / "staging", slow_volume)
    assert len(written) == 211


def test_failing_volume(tmp_path: Path) -> None:
    """A volume that refuses ends the fetch with its error, and leaves no file open."""
    source = MemorySource(files)
    write_files(tmp_path / "staging", {"a": b"a file where a folder must be"})
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="staging/a"):
        run(source, wanted(source), tmp_path / "staging")
    assert len(os.listdir("/proc/self/fd")) == before
