"""The manifest: what it accepts, what it refuses, and that equal manifests are equal bytes."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.bundle.digest import digest_of
from loader.bundle.errors import ManifestInvalid
from loader.bundle.manifest import Asset, Manifest, Pin, chunk_range, path_problem
from tests.sources import asset, manifest_of

names = st.from_regex(r"\A[a-z][a-z0-9]{0,8}\Z")
bundles = st.dictionaries(names, st.binary(max_size=200), min_size=1, max_size=6)


def document(**changes: Any) -> dict[str, Any]:
    """A right manifest of one file of two chunks, as JSON would give it, with some keys changed."""
    data: dict[str, Any] = json.loads(manifest_of({"model.pkl": b"0123456789"}, chunk_size=6).encode())
    return {**data, **changes}


def with_asset(**changes: Any) -> dict[str, Any]:
    return document(assets=[{**document()["assets"][0], **changes}])


def decode(data: object) -> Manifest:
    return Manifest.decode(data if isinstance(data, bytes) else json.dumps(data).encode(), "m.json")


@given(bundles, st.integers(1, 64))
def test_round_trip(files: dict[str, bytes], chunk_size: int) -> None:
    """A manifest that is written and read again is the same manifest."""
    manifest = manifest_of(files, chunk_size)
    assert decode(manifest.encode()) == manifest


@given(bundles, st.randoms(use_true_random=False))
def test_order_does_not_count(files: dict[str, bytes], randomness: random.Random) -> None:
    """The same assets in any order give identical bytes, and so one identity."""
    assets = [asset(path, data) for path, data in files.items()]
    first = Manifest.of(assets)
    randomness.shuffle(assets)
    assert Manifest.of(assets).encode() == first.encode()
    assert Manifest.of(assets).digest == digest_of(first.encode())


def test_one_other_byte_is_another_identity() -> None:
    """Bundles that differ in one byte of one file have different digests."""
    assert manifest_of({"a": b"0"}).digest != manifest_of({"a": b"1"}).digest


def test_json_form() -> None:
    """The file has the documented keys, and leaves out chunks and pin where there is nothing to say."""
    manifest = Manifest.of([asset("a", b"x"), msgspec.structs.replace(asset("b", b"y"), pin=Pin("17", "AAAAAA=="))])
    assert json.loads(manifest.encode()) == {
        "formatVersion": 1,
        "chunkSize": 4194304,
        "assets": [
            {"path": "a", "size": 1, "digest": digest_of(b"x")},
            {"path": "b", "size": 1, "digest": digest_of(b"y"), "pin": {"generation": "17", "crc32c": "AAAAAA=="}},
        ],
    }


def test_right_document() -> None:
    """The document that the refusals below are derived from is itself accepted."""
    assert decode(document()).assets[0].path == "model.pkl"


@pytest.mark.parametrize(
    "name",
    [
        "../model.pkl",
        "a/../../model.pkl",
        "..",
        ".",
        "a/./b",
        "/etc/passwd",
        "a//b",
        "a/",
        "",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\\b",
        "..\\b",
        "a\u202eb",
        "\udc80",
        "x" * 256,
        "/".join(["x" * 200] * 6),
        "é" * 128,
        "manifest.json",
        ".staging/a",
    ],
)
def test_hostile_name(name: str) -> None:
    """A name that leaves the directory, cannot be a file's, or is Pantry's own is refused, in print without tricks."""
    with pytest.raises(ManifestInvalid) as caught:
        Manifest.of([Asset(path=name, size=0, digest=digest_of(b""))])
    assert str(caught.value).isprintable()
    if name.isprintable():
        with pytest.raises(ManifestInvalid, match="the name"):
            decode(with_asset(path=name))


@pytest.mark.parametrize(
    "name",
    ["model.pkl", "a/b/c.npy", ".hidden", "manifest.json.old", "a/manifest.json", "naïve model.pkl", "x" * 255, "..."],
)
def test_ordinary_name(name: str) -> None:
    """A name that can be a file's is accepted, however odd."""
    assert path_problem(name) is None
    assert decode(manifest_of({name: b"data"}).encode()).assets[0].path == name


@given(st.text(max_size=40))
def test_accepted_names_stay_inside(name: str) -> None:
    """Whatever text a name is: either it is refused, or it is a path below the directory."""
    if path_problem(name) is None:
        parts = name.split("/")
        assert not name.startswith("/")
        assert not {"", ".", ".."} & set(parts)
        assert "\0" not in name


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (["Model.pkl", "model.pkl"], "one name where case does not count"),
        (["STRASSE", "straße"], "one name where case does not count"),
        (["a/B", "a/b"], "one name where case does not count"),
        (["a", "a/b"], "both a file and a folder"),
        (["A", "a/b/c"], "both a file and a folder"),
        (["a/b", "a/b/c"], "both a file and a folder"),
        (["a", "a"], "one name"),
    ],
)
def test_names_that_exclude_each_other(paths: list[str], problem: str) -> None:
    """Two names that cannot both be files of one directory on every file system are refused."""
    with pytest.raises(ManifestInvalid, match=problem):
        Manifest.of([asset(path, b"") for path in paths])


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"assets": "\xff"}',
        b"[" * 100_000,
        document(extra=1),
        document(chunk_size=6),
        with_asset(extra=1),
        with_asset(pin={"generation": "1", "extra": 1}),
        with_asset(pin={}),
        with_asset(size="10"),
        with_asset(size=10.5),
        with_asset(path=None),
        {"formatVersion": 1, "chunkSize": 6},
    ],
)
def test_other_form(data: object) -> None:
    """What is not JSON, lacks a key, has an unknown one or one of another type is no manifest."""
    with pytest.raises(ManifestInvalid, match=r"m\.json is not a bundle's manifest: .+ Publish"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (document(formatVersion=2), "has formatVersion 2, expected 1"),
        (document(formatVersion=0), "has formatVersion 0, expected 1"),
        (document(chunkSize=0), "chunkSize is 0"),
        (document(chunkSize=-6), "chunkSize is -6"),
        (document(assets=[]), "lists no assets"),
        (document(chunkSize=5, assets=[{**document()["assets"][0], "chunks": []}]), "0 chunk digests, expected 2"),
        (document(chunkSize=4), "2 chunk digests, expected 3"),
        (document(chunkSize=10), "2 chunk digests, expected 1"),
        (with_asset(size=0), "2 chunk digests, expected 0"),
        (with_asset(size=13), "2 chunk digests, expected 3"),
        (with_asset(size=-1), "no valid form"),
        (with_asset(digest="sha256:00"), "no valid form"),
        (with_asset(digest=digest_of(b"")[7:]), "no valid form"),
        (with_asset(digest=digest_of(b"").upper()), "no valid form"),
        (with_asset(digest=digest_of(b"") + "\n"), "no valid form"),
        (with_asset(chunks=[digest_of(b""), "md5:0"]), "no valid form"),
    ],
)
def test_impossible_content(data: object, problem: str) -> None:
    """Sizes, digests and counts that do not fit together are refused by name."""
    with pytest.raises(ManifestInvalid, match=problem):
        decode(data)


@given(st.integers(0, 500), st.integers(1, 60))
def test_chunk_range(size: int, chunk_size: int) -> None:
    """The ranges of a file's chunks are in order, without gaps, none empty, and cover it."""
    ranges = [chunk_range(size, index, chunk_size) for index in range(-(-size // chunk_size))]
    assert sum(end - start for start, end in ranges) == size
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges)][: len(ranges)]
    assert all(0 < end - start <= chunk_size for start, end in ranges)
