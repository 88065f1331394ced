"""Plan: what a sync would do, told before anything moves, and with the exit status of a check."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loader.bundle.bundle import Bundle
from loader.bundle.errors import DigestMismatch
from loader.plan import Plan, plan_one
from loader.staging import SPARE_BYTES
from loader.sync import sync
from tests.sources import (
    MemorySource,
    digits,
    pantry,
    progress_of,
    published,
    read_files,
    spec,
    write_files,
    write_models,
)

FIRST = {"model.pkl": b"m" * 5000, "table.npy": b"t" * 300, "words.txt": b"w" * 20}
SECOND = {"model.pkl": b"n" * 6000, "table.npy": b"t" * 300, "model.yaml": b"{}"}


def plan_after_first(root: Path, *, plain: bool) -> tuple[Plan, MemorySource]:
    """What the plan for the second bundle is on a volume that has the first."""
    sync(spec(), root, progress_of(root), MemorySource(FIRST if plain else published(FIRST)))
    source = MemorySource(SECOND if plain else published(SECOND))
    return plan_one(spec(version="2"), root, 1, source=source), source


def test_the_difference_of_published_bundles(tmp_path: Path) -> None:
    """Against the version that is there: by content, what is added, changed, reused, removed and pruned."""
    plan, source = plan_after_first(tmp_path, plain=False)
    assert plan == Plan(
        "digits", "2", "1", added=1, changed=1, reused=1, removed=1,
        bytes=6302, bytes_to_move=6002, bytes_pruned=5320, pruned=("1",),
    )  # fmt: skip
    assert source.moved == 0
    sync(spec(version="2"), tmp_path, progress_of(tmp_path, "2"), source)
    assert source.moved == plan.bytes_to_move


def test_the_difference_of_plain_prefixes(tmp_path: Path) -> None:
    """A plain prefix tells no digests, so what has a known name counts as changed, and moves."""
    plan, source = plan_after_first(tmp_path, plain=True)
    assert (plan.added, plan.changed, plan.reused, plan.removed) == (1, 2, 0, 1)
    assert plan.bytes_to_move == plan.bytes == 6302
    sync(spec(version="2"), tmp_path, progress_of(tmp_path, "2"), source)
    assert source.moved == plan.bytes_to_move


@pytest.mark.parametrize("pinned", [True, False])
def test_a_bundle_that_is_there(tmp_path: Path, pinned: bool) -> None:
    """Of a bundle that is on the volume nothing moves; one that is pinned by its digest is not even looked for."""
    source = MemorySource(published(FIRST))
    sync(spec(), tmp_path, progress_of(tmp_path), source)
    lists = source.lists
    digest = Bundle.open(tmp_path / "digits" / "1").digest
    plan = plan_one(spec(digest=digest if pinned else None), tmp_path, 2, source=source)
    assert (plan.reused, plan.bytes_to_move, plan.pruned) == (3, 0, ())
    assert source.lists - lists == (0 if pinned else 1)


def plan_by_command(tmp_path: Path, *entries: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
    models = write_models(tmp_path / "models.yaml", *entries)
    return pantry("plan", "--models", models, "--volume", tmp_path / "volume")


def test_exit_status_and_fields(tmp_path: Path) -> None:
    """A sync that would succeed exits 0; every number is a field, and the volume is as it was."""
    (tmp_path / "volume").mkdir()
    store = write_files(tmp_path / "store", published(FIRST))
    code, (event,) = plan_by_command(tmp_path, digits(store))
    assert (code, event["phase"], event["model"], event["version"]) == (0, "planned", "digits", "1")
    assert (event["added"], event["bytesToMove"]) == (3, 5320)
    free = os.statvfs(tmp_path)
    assert abs(event["freeBytesAfter"] - free.f_bavail * free.f_frsize) < 1 << 30
    assert read_files(tmp_path / "volume") == {}


def test_a_sync_that_would_fail(tmp_path: Path) -> None:
    """A bundle that is not there, or is other content under a known version, exits 1; the others are planned still."""
    (tmp_path / "volume").mkdir()
    store = write_files(tmp_path / "store", published(FIRST))
    code, events = plan_by_command(tmp_path, {**digits(tmp_path / "gone"), "name": "gone"}, digits(store))
    assert code == 1
    assert [event["phase"] for event in events] == ["failed", "planned"]
    assert "holds no objects" in events[0]["message"]
    models = tmp_path / "models.yaml"
    write_models(models, digits(store))
    assert pantry("sync", "--models", models, "--volume", tmp_path / "volume")[0] == 0
    write_files(tmp_path / "store", published(SECOND))
    code, (event,) = plan_by_command(tmp_path, digits(store))
    assert (code, event["phase"]) == (1, "failed")
    assert "publish the new content under a new version" in event["message"]


def test_a_volume_without_room(tmp_path: Path) -> None:
    """What does not fit is said with what to do, and exits 1."""
    (tmp_path / "volume").mkdir()
    store = write_files(tmp_path / "store", FIRST)
    free = os.statvfs(tmp_path)
    size = free.f_bavail * free.f_frsize - SPARE_BYTES // 2
    try:
        os.truncate(store / "model.pkl", size)  # sparse
    except OSError:
        pytest.skip("this file system has no files so large")
    code, (planned, failed) = plan_by_command(tmp_path, digits(store))
    assert (code, planned["phase"], failed["phase"]) == (1, "planned", "failed")
    assert "has not enough room" in failed["message"]
    assert "Enlarge the volume" in failed["message"]


def test_memory_of_a_packed_bundle(tmp_path: Path) -> None:
    """A packed bundle carries what loading it was measured to take: the plan says it before the bundle is there."""
    (tmp_path / "volume").mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.pkl").write_bytes(pickle.dumps({str(n): np.full(100, n, np.float32) for n in range(20_000)}))
    assert pantry("publish", source, f"file://{tmp_path}/store")[0] == 0
    code, (event,) = plan_by_command(tmp_path, digits(tmp_path / "store"))
    assert code == 0
    assert event["peakBytes"] > 1 << 20
    assert event["mappedBytes"] >= 8_000_000
    assert "; loading takes " in event["message"]
    assert " mapped" in event["message"]
    models = tmp_path / "models.yaml"
    assert pantry("sync", "--models", models, "--volume", tmp_path / "volume")[0] == 0
    code, (again,) = plan_by_command(tmp_path, digits(tmp_path / "store"))
    assert (code, again["peakBytes"]) == (0, event["peakBytes"])
    assert "nothing to move" in again["message"]


def test_a_damaged_record_fails_before_anything_moves(tmp_path: Path) -> None:
    """The record of the packs is checked like every asset."""
    source = MemorySource(published({"model.pkl": b"m", ".pack/pack.json": b'{"pickles": []}'}))
    source.replace(".pack/pack.json", b'{"pickles": {}}')
    with pytest.raises(DigestMismatch, match=r"pack\.json is damaged"):
        plan_one(spec(), tmp_path, 2, source=source)
    assert source.moved == len(b'{"pickles": {}}')


def test_wrong_use(tmp_path: Path) -> None:
    """A models.yaml that cannot be followed exits 2, so that CI tells a wrong file from a bundle that is not there."""
    (tmp_path / "models.yaml").write_text("models: [")
    assert pantry("plan", "--models", tmp_path / "models.yaml", "--volume", tmp_path)[0] == 2
