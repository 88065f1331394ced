"""Verified reading: right bytes or an error, whatever happens to the file, before or while it is read."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.bundle.bundle import Bundle
from loader.bundle.errors import BundleError, DigestMismatch, ManifestInvalid
from loader.bundle.pickles import load_pickle
from loader.bundle.verified import VerifiedReader
from tests.sources import asset, published, write_files

DATA = bytes(range(256)) * 4 + b"end"
CHUNK = 100
CHUNKS = -(-len(DATA) // CHUNK)

in_one_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(name="path")
def right_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(DATA)
    return path


def reader(path: Path, data: bytes = DATA, chunk_size: int = CHUNK) -> io.BufferedReader[VerifiedReader]:
    return io.BufferedReader(VerifiedReader(path, asset(path.name, data, chunk_size), chunk_size), 64)


def overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def flip(path: Path, position: int) -> None:
    overwrite(path, position, bytes([path.read_bytes()[position] ^ 0x10]))


def test_right_file(path: Path) -> None:
    """A file that is what the manifest says reads as it is, and reports every verified byte once."""
    verified: list[int] = []
    with VerifiedReader(path, asset(path.name, DATA, CHUNK), CHUNK, verified.append) as stream:
        assert stream.read() == DATA
        assert stream.read() == b""
    assert sum(verified) == len(DATA)


def test_empty_file(tmp_path: Path) -> None:
    """An empty asset is read as nothing."""
    write_files(tmp_path, {"empty": b""})
    with reader(tmp_path / "empty", b"") as stream:
        assert stream.read() == b""


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_flipped_byte(path: Path, chunk: int, place: str) -> None:
    """One flipped byte anywhere stops the read at its chunk: all before comes out right, nothing of it or after."""
    start, end = chunk * CHUNK, min((chunk + 1) * CHUNK, len(DATA))
    flip(path, {"first": start, "middle": (start + end) // 2, "last": end - 1}[place])
    with VerifiedReader(path, asset(path.name, DATA, CHUNK), CHUNK) as stream:
        got = b""
        while len(got) + 7 <= start:
            got += stream.read(7) or b""
        with pytest.raises(DigestMismatch, match=f"chunk {chunk} .bytes {start} to {end}.: expected sha256:"):
            stream.read(7)
        assert got == DATA[: len(got)]
        assert len(got) <= start
        with pytest.raises(DigestMismatch):
            stream.read(1000)


def test_flipped_byte_in_another_chunk(path: Path) -> None:
    """A chunk that is right can be read although another one is damaged."""
    flip(path, 0)
    with reader(path) as stream:
        stream.seek(CHUNK)
        assert stream.read(CHUNK) == DATA[CHUNK : 2 * CHUNK]
        stream.seek(0)
        with pytest.raises(DigestMismatch):
            stream.read(1)


@pytest.mark.parametrize("size", [0, 1, CHUNK, len(DATA) - 1, len(DATA) + 1, len(DATA) + CHUNK])
def test_other_size(path: Path, size: int) -> None:
    """A truncated or extended file is refused when it is opened."""
    os.truncate(path, size)
    with pytest.raises(DigestMismatch, match=f"expected {len(DATA)} bytes, got {size}"):
        reader(path)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is refused in one sentence that names it."""
    with pytest.raises(DigestMismatch, match=r"gone\.bin: the manifest lists it, but it cannot be read: No such file"):
        reader(tmp_path / "gone.bin")


def test_directory(tmp_path: Path) -> None:
    """A directory in place of the file is refused, and no descriptor stays open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DigestMismatch, match="Is a directory"):
        reader(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_pipe(tmp_path: Path) -> None:
    """A pipe in place of the file is refused, and does not block."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DigestMismatch, match="got 0"):
        reader(tmp_path / "pipe")


def test_symbolic_link(path: Path, tmp_path: Path) -> None:
    """A symbolic link is refused even where it leads to the right bytes."""
    link = tmp_path / "link.bin"
    link.symlink_to(path)
    with pytest.raises(DigestMismatch, match="cannot be read"):
        reader(link)


def test_truncated_while_reading(path: Path) -> None:
    """A file that is cut short after it was opened gives an error at the first missing byte's chunk."""
    with VerifiedReader(path, asset(path.name, DATA, CHUNK), CHUNK) as stream:
        assert stream.read(10) == DATA[:10]
        os.truncate(path, 5 * CHUNK + 1)
        stream.seek(4 * CHUNK)
        assert stream.read(CHUNK) == DATA[4 * CHUNK : 5 * CHUNK]
        with pytest.raises(DigestMismatch, match="chunk 5"):
            stream.read()


def test_swapped_while_reading(path: Path, tmp_path: Path) -> None:
    """Another file that is renamed over the path is not read: the open one is, to its right end."""
    with reader(path) as stream:
        assert stream.read(10) == DATA[:10]
        write_files(tmp_path, {"other": bytes(len(DATA))})
        (tmp_path / "other").replace(path)
        assert stream.read() == DATA[10:]
    with reader(path) as stream, pytest.raises(DigestMismatch):
        stream.read()


def test_overwritten_while_reading(path: Path) -> None:
    """Bytes that are overwritten in place after the file was opened are caught when their chunk is read."""
    with VerifiedReader(path, asset(path.name, DATA, CHUNK), CHUNK) as stream:
        assert stream.read(CHUNK) == DATA[:CHUNK]
        overwrite(path, 0, bytes(len(DATA)))
        with pytest.raises(DigestMismatch, match="chunk 1"):
            stream.read()


def test_overwritten_after_its_chunk_was_verified(path: Path) -> None:
    """What was verified is what is handed out: a chunk in memory is not read from the file a second time."""
    with VerifiedReader(path, asset(path.name, DATA, CHUNK), CHUNK) as stream:
        assert stream.read(1) == DATA[:1]
        overwrite(path, 0, bytes(CHUNK))
        assert stream.read(CHUNK - 1) == DATA[1:CHUNK]


class Code:
    """Pickles as a call that appends to a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("chunk_size", [16, 64, 4096])
def test_payload_after_a_flipped_byte_never_runs(tmp_path: Path, chunk_size: int) -> None:
    """Code in a pickle that lies in a damaged chunk, or after one, is never executed."""
    witness = tmp_path / "executed"
    data = pickle.dumps([bytes(200), Code(witness)], protocol=2)
    path = write_files(tmp_path, {"model.pkl": data}) / "model.pkl"
    payload = data.index(b"mkdir")
    for position in range(0, payload, 7):
        flip(path, position)
        with reader(path, data, chunk_size) as stream, pytest.raises(DigestMismatch):
            load_pickle(stream, "model.pkl")
        assert not witness.exists()
        flip(path, position)
    with reader(path, data, chunk_size) as stream:
        load_pickle(stream, "model.pkl")
    assert witness.is_dir()  # the payload works: the bytes above are what kept it from running


def test_changed_payload_never_runs(tmp_path: Path) -> None:
    """Code that somebody put in the place of harmless bytes of the same size is not executed."""
    witness = tmp_path / "executed"
    evil = pickle.dumps(Code(witness))
    harmless = pickle.dumps(bytes(1000))
    path = write_files(tmp_path, {"model.pkl": evil + harmless[len(evil) :]}) / "model.pkl"
    with reader(path, harmless) as stream, pytest.raises(DigestMismatch):
        load_pickle(stream, "model.pkl")
    assert not witness.exists()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 300)),
        st.tuples(st.just("readinto"), st.integers(0, 300)),
        st.tuples(st.just("readline"), st.integers(-1, 300)),
        st.tuples(st.just("peek"), st.integers(0, 300)),
        st.tuples(st.just("set"), st.integers(0, 700)),
        st.tuples(st.just("end"), st.integers(-50, 50)),
        st.tuples(st.just("current"), st.integers(0, 50)),
    ),
    max_size=25,
)


def step(stream: io.BufferedReader[Any], kind: str, number: int) -> object:
    match kind:
        case "read":
            return stream.read(number)
        case "readinto":
            buffer = bytearray(number)
            count = stream.readinto(buffer)
            return count, bytes(buffer)
        case "readline":
            return stream.readline(number)
        case "peek":
            return stream.peek(1)[:1] + stream.read(number)
        case "set":
            return stream.seek(number)
        case "end":
            return stream.seek(max(-stream.seek(0, os.SEEK_END), number), os.SEEK_END)
        case _:
            return stream.seek(number, os.SEEK_CUR), stream.tell()


@in_one_directory
@given(
    st.lists(st.sampled_from([b"\n", b"word", b"\0\xff", bytes(20)]), max_size=60).map(b"".join),
    st.integers(1, 50),
    st.integers(1, 80),
    steps,
)
def test_like_a_plain_file(
    tmp_path: Path, data: bytes, chunk_size: int, buffer_size: int, moves: list[tuple[str, int]]
) -> None:
    """Any sequence of reads and seeks gives what a plain file gives, for any sizes of chunks and buffers."""
    path = tmp_path / "file"
    path.write_bytes(data)
    raw = VerifiedReader(path, asset("file", data, chunk_size), chunk_size)
    with io.BufferedReader(raw, buffer_size) as stream, path.open("rb") as plain:
        for kind, number in moves:
            assert step(stream, kind, number) == step(plain, kind, number)
            assert stream.tell() == plain.tell()


@in_one_directory
@given(st.binary(min_size=1, max_size=300), st.integers(1, 50), st.data())
def test_any_change_is_caught_or_does_not_matter(
    tmp_path: Path, data: bytes, chunk_size: int, draw: st.DataObject
) -> None:
    """Whatever bytes of a file are changed: every byte that is read is right, or the read fails."""
    path = tmp_path / "file"
    position = draw.draw(st.integers(0, len(data) - 1))
    change = draw.draw(st.binary(min_size=1, max_size=20))
    path.write_bytes((data[:position] + change + data[position + len(change) :])[: len(data)])
    got = b""
    with VerifiedReader(path, asset("file", data, chunk_size), chunk_size) as stream:
        try:
            while piece := stream.read(draw.draw(st.integers(1, 60))):
                got += piece
        except DigestMismatch:
            assert path.read_bytes() != data
        else:
            assert path.read_bytes() == data
    assert data.startswith(got)


def test_bundle(tmp_path: Path) -> None:
    """A bundle reads its assets by path, and refuses the ones that it does not list."""
    write_files(tmp_path, published({"a/model.pkl": DATA}, CHUNK) | {"stray": b"not listed"})
    bundle = Bundle.open(tmp_path)
    assert bundle.read("a/model.pkl") == DATA
    assert bundle.digest == bundle.manifest.digest
    for name in ["stray", "../stray", "manifest.json", ""]:
        with pytest.raises(BundleError, match="has no asset"):
            bundle.reader(name)


def test_no_bundle(tmp_path: Path) -> None:
    """A directory without a manifest is no bundle."""
    with pytest.raises(ManifestInvalid, match="Only a synced or published bundle has a manifest"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("names", "config", "expected"),
    [
        (["model.pkl", "table.npy"], b"", "model.pkl"),
        (["a/MODEL.PICKLE"], b"", "a/MODEL.PICKLE"),
        (["a.pkl", "b.pkl"], b"asset: b.pkl", "b.pkl"),
        (["model.bin"], b"asset: model.bin", "model.bin"),
        (["a.pkl", "b.pkl"], b"", "found a.pkl, b.pkl"),
        (["table.npy"], b"", "found none"),
        (["a.pkl"], b"asset: b.pkl", "no asset 'b.pkl'"),
    ],
)
def test_which_file_is_the_model(tmp_path: Path, names: list[str], config: bytes, expected: str) -> None:
    """The model is the file that model.yaml names, else the only pickle; otherwise the sentence lists the choice."""
    write_files(tmp_path, published({**dict.fromkeys(names, b""), **({"model.yaml": config} if config else {})}))
    bundle = Bundle.open(tmp_path)
    try:
        assert bundle.pickle_asset(bundle.config()).path == expected
    except BundleError as error:
        assert expected in str(error)  # noqa: PT017 -- one table for both
