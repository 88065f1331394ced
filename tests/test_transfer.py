"""Moving bytes: parallel, verified, resumed, and stubborn against a store that breaks off or sends wrong bytes."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader import retry
from loader.bundle.errors import DigestMismatch
from loader.bundle.manifest import Asset
from loader.errors import ObjectNotFound, SourceUnavailable
from loader.sources import Body, StoredObject
from loader.transfer.connections import FIRST_CONNECTIONS, MOST_CONNECTIONS, Connections
from loader.transfer.fetch import fetch
from loader.transfer.journal import JOURNAL_NAME
from loader.transfer.staged import Wanted
from tests.sources import MemoryBody, MemorySource, asset, crc32c, read_files, write_files

CHUNK = 1000
DATA = os.urandom(10 * CHUNK + 17)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.001)


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


def staged(staging: Path) -> dict[str, bytes]:
    """The files of a staging directory, without its journal."""
    found = read_files(staging)
    found.pop(JOURNAL_NAME, None)
    return found


files = {"model.pkl": DATA, "a/table.npy": DATA[:CHUNK], "a/b/small": b"x", "empty": b"", "two": DATA[: 2 * CHUNK]}


@pytest.mark.parametrize("with_crc32c", [True, False])
@pytest.mark.parametrize("want", [wanted, wanted_prefix])
def test_fetch(tmp_path: Path, want: object, with_crc32c: bool) -> None:
    """All files arrive with their bytes, in order, with their digests; every byte is read and reported once."""
    source = MemorySource(files, with_crc32c=with_crc32c)
    items = wanted(source) if want is wanted else wanted_prefix(source)
    assets, reported = run(source, items, tmp_path / "staging")
    assert staged(tmp_path / "staging") == files
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
    assert staged(tmp_path / "staging") == files


def test_breaks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that only breaks off is given up with a sentence; what had arrived is kept and not fetched again."""
    monkeypatch.setattr(retry, "GIVE_UP_AFTER_SECONDS", 0.1)
    source = MemorySource({"a": DATA, "b": DATA})
    source.breaks["b"] = 10**9
    with pytest.raises(SourceUnavailable, match=r"the connection was reset \(tried for 0 s\)\. Check the network"):
        run(source, wanted(source), tmp_path / "staging")
    assert staged(tmp_path / "staging")["a"] == DATA
    source.breaks.clear()
    source.moved = 0
    run(source, wanted(source), tmp_path / "staging")
    assert staged(tmp_path / "staging") == source.objects
    assert source.moved == len(DATA)


def test_passing_damage(tmp_path: Path) -> None:
    """A chunk that arrives wrong once or twice is fetched again, and alone."""
    source = MemorySource({"model.pkl": DATA})
    source.flips["model.pkl"] = 2
    run(source, wanted(source), tmp_path / "staging")
    assert staged(tmp_path / "staging") == source.objects
    assert source.reads["model.pkl"] == 11 + 2


def test_lasting_damage(tmp_path: Path) -> None:
    """A chunk that is wrong every time fails the asset, by its bytes, and is not continued from."""
    source = MemorySource({"model.pkl": DATA})
    items = wanted(source)
    position = 5 * CHUNK + 500
    source.objects["model.pkl"] = DATA[:position] + bytes([DATA[position] ^ 1]) + DATA[position + 1 :]
    with pytest.raises(DigestMismatch, match=r"model\.pkl is damaged: bytes 5000 to 6000 have digest sha256:"):
        run(source, items, tmp_path / "staging")
    source.objects["model.pkl"] = DATA
    run(source, items, tmp_path / "staging")
    assert staged(tmp_path / "staging") == {"model.pkl": DATA}


def test_failure_ends_the_other_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one file is refused, readers that wait to try another chunk again do not hold up the end."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 20.0)
    monkeypatch.setattr(retry, "GIVE_UP_AFTER_SECONDS", 300.0)
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
    assert staged(tmp_path / "staging") == source.objects


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


def killed_after(source: MemorySource, items: list[Wanted], staging: Path, reads: int) -> int:
    """Fetches until an object disappears, as a killed run leaves it: returns the bytes that had arrived."""
    source.vanish_after["model.pkl"] = reads
    arrived: list[int] = []
    staging.mkdir(exist_ok=True)
    with pytest.raises(ObjectNotFound):
        fetch(source, items, staging, lambda count, _: arrived.append(count))
    source.vanish_after.clear()
    source.objects["model.pkl"], source.moved = DATA, 0
    return sum(arrived)


@pytest.mark.parametrize("reads", [0, 1, 5, 10])
@pytest.mark.parametrize("with_crc32c", [True, False])
@pytest.mark.parametrize("want", [wanted, wanted_prefix])
def test_resume(tmp_path: Path, want: object, with_crc32c: bool, reads: int) -> None:
    """A restart fetches the chunks that the journal does not have, and reports all bytes as there."""
    source = MemorySource({"model.pkl": DATA}, with_crc32c=with_crc32c)
    items = wanted(source) if want is wanted else wanted_prefix(source)
    arrived = killed_after(source, items, tmp_path / "staging", reads)
    (fetched,), reported = run(source, items, tmp_path / "staging")
    assert staged(tmp_path / "staging") == source.objects
    assert fetched.digest == asset("model.pkl", DATA).digest
    assert (reads - 1) * CHUNK < arrived <= reads * CHUNK or reads == 0
    assert source.moved == len(DATA) - arrived
    assert reported == len(DATA)


@pytest.mark.parametrize("want", [wanted, wanted_prefix])
def test_the_journal_is_not_believed(tmp_path: Path, want: object) -> None:
    """A chunk that the journal has and the disk has not, or not any more, is fetched again."""
    source = MemorySource({"model.pkl": DATA})
    items = wanted(source) if want is wanted else wanted_prefix(source)
    killed_after(source, items, tmp_path / "staging", 9)
    path = tmp_path / "staging" / "model.pkl"
    path.write_bytes(bytes(3 * CHUNK) + path.read_bytes()[3 * CHUNK :])
    run(source, items, tmp_path / "staging")
    assert staged(tmp_path / "staging") == source.objects
    assert source.moved >= 3 * CHUNK


@pytest.mark.parametrize("torn", [b"torn", *map(random.Random(1).randbytes, (44, 4400))])
def test_torn_journal(tmp_path: Path, torn: bytes) -> None:
    """Whatever the end of the journal is: the files end with the right bytes."""
    source = MemorySource({"model.pkl": DATA})
    items = wanted(source)
    killed_after(source, items, tmp_path / "staging", 5)
    with (tmp_path / "staging" / JOURNAL_NAME).open("ab") as file:
        file.write(torn)
    run(source, items, tmp_path / "staging")
    assert staged(tmp_path / "staging") == source.objects


def test_resume_of_a_bundle_that_was_complete(tmp_path: Path) -> None:
    """A run killed after its last byte leaves nothing to fetch."""
    source = MemorySource(files)
    run(source, wanted(source), tmp_path / "staging")
    source.moved = 0
    run(source, wanted(source), tmp_path / "staging")
    assert source.moved == 0
    assert staged(tmp_path / "staging") == files


def test_a_file_that_another_bundle_has_is_linked(tmp_path: Path) -> None:
    """An asset whose digests an older bundle's manifest has is not fetched, and takes no room."""
    source = MemorySource(files)
    old = write_files(tmp_path / "old", {"weights": DATA})
    items = [
        msgspec.structs.replace(item, twin=old / "weights") if item.stored.name == "model.pkl" else item
        for item in wanted(source)
    ]
    _, reported = run(source, items, tmp_path / "staging")
    assert staged(tmp_path / "staging") == files
    assert source.reads["model.pkl"] == 0
    assert reported == sum(map(len, files.values()))
    assert (old / "weights").stat().st_ino == (tmp_path / "staging" / "model.pkl").stat().st_ino


def test_a_rotten_twin_is_not_linked_and_not_written_to(tmp_path: Path) -> None:
    """Where the older bundle's file is not any more what its manifest says, the source has it; the old one stays."""
    source = MemorySource({"model.pkl": DATA})
    rotten = DATA[:-1] + bytes([DATA[-1] ^ 1])
    old = write_files(tmp_path / "old", {"weights": rotten})
    items = [msgspec.structs.replace(item, twin=old / "weights") for item in wanted(source)]
    (tmp_path / "staging").mkdir()
    os.link(old / "weights", tmp_path / "staging" / "model.pkl")  # as a run that was killed leaves it
    run(source, items, tmp_path / "staging")
    assert staged(tmp_path / "staging") == source.objects
    assert (old / "weights").read_bytes() == rotten


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.binary(max_size=200), st.binary(max_size=300), st.integers(1, 40), st.booleans())
def test_resume_from_anything(tmp_path: Path, data: bytes, left: bytes, chunk_size: int, begins_right: bool) -> None:
    """Whatever lies in the staging directory under an asset's name: the file ends with the right bytes."""
    source = MemorySource({"model.pkl": data})
    staging = write_files(tmp_path / "staging", {"model.pkl": data[: len(left)] + left if begins_right else left})
    run(source, wanted(source, chunk_size), staging)
    assert staged(staging) == {"model.pkl": data}


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
    assert staged(tmp_path / "staging") == source.objects


def test_a_trickle_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that brings a byte now and then, and so never runs into a time-out, is broken off."""
    monkeypatch.setattr("loader.transfer.fetch.CHUNK_SECONDS", 0.2)
    monkeypatch.setattr("loader.transfer.fetch.WINDOW_SECONDS", 0.05)
    aborted: list[str] = []

    class Trickle(io.BytesIO):
        def read(self, limit: int | None = -1, /) -> bytes:
            time.sleep(0.02)
            if aborted:
                raise SourceUnavailable("aborted")
            return b"x"

        def abort(self) -> None:
            aborted.append("once")

    class Trickling(MemorySource):
        @contextlib.contextmanager
        def open(self, stored: StoredObject, start: int, end: int) -> Iterator[Body]:
            yield Trickle() if not aborted else MemoryBody(DATA[start:end])

    source = Trickling({"model.pkl": DATA})
    run(source, wanted(source), tmp_path / "staging")
    assert staged(tmp_path / "staging") == source.objects
    assert aborted


def test_few_connections_while_more_bring_nothing() -> None:
    """Where the disk or the processor is the limit, the number settles where it began."""
    connections = Connections()
    for _ in range(20):
        connections.observe(1000.0)
    assert connections.count == FIRST_CONNECTIONS


def test_more_connections_while_each_brings_more() -> None:
    """Where each connection has its own limit, the number grows to the most, and stays."""
    connections = Connections()
    for _ in range(20):
        connections.observe(100.0 * connections.count)
    assert connections.count == MOST_CONNECTIONS


def test_the_number_is_chosen_anew_when_the_network_changes() -> None:
    """After a collapse of the rate the search begins again."""
    connections = Connections()
    for _ in range(20):
        connections.observe(1000.0)
    for _ in range(20):
        connections.observe(10.0 * connections.count)
    assert connections.count == MOST_CONNECTIONS


def test_failing_volume(tmp_path: Path) -> None:
    """A volume that refuses ends the fetch with its error, and leaves no file open."""
    source = MemorySource(files)
    write_files(tmp_path / "staging", {"a": b"a file where a folder must be"})
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="staging/a"):
        run(source, wanted(source), tmp_path / "staging")
    assert len(os.listdir("/proc/self/fd")) == before
