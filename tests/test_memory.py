"""Reading memory limits, and deciding by them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loader.bundle.bundle import Bundle
from loader.bundle.pack.record import Environment, PackedPickle, PackRecord
from serving.supervise.memory import Memory, anonymous_bytes, descendants, pss_bytes, read_memory
from serving.supervise.messages import BundleRef
from serving.supervise.rules import (
    Need,
    Verdict,
    blame_for_memory,
    dies_too_often,
    growth_bound,
    judge_memory,
    total_need,
)
from serving.supervise.watch import need_of
from tests.conftest import write_bundle
from tests.model_kinds import Doubler

ONE, TWO = BundleRef("one", "1", "sha256:1"), BundleRef("two", "1", "sha256:2")
MIB, GIB = 1 << 20, 1 << 30


def machine(home: Path, groups: str, **files: str) -> tuple[Path, Path]:
    """Write what a kernel tells: a machine of 64 GiB, this process's groups, and files of groups (`a__b` is a/b)."""
    cgroups, proc = home / "cgroup", home / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: {60 << 20} kB\n")
    (proc / "self/cgroup").write_text(groups)
    for name, text in files.items():
        path = cgroups / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cgroups, proc


def test_the_container_limits_what_the_machine_has(tmp_path: Path) -> None:
    """Cgroup v2, as a container sees it; files' pages that nobody maps are no use."""
    stat = f"inactive_file {GIB}\nactive_file {GIB}\nfile_mapped {GIB}\nslab_reclaimable 0\n"
    cgroups, proc = machine(
        tmp_path, "0::/\n", memory_DOT_max=str(8 * GIB), memory_DOT_current=str(4 * GIB), memory_DOT_stat=stat
    )
    assert read_memory(cgroups=cgroups, proc=proc) == Memory(8 * GIB, 3 * GIB)


def test_a_group_above_may_be_tighter(tmp_path: Path) -> None:
    """The pod's limit counts where the container has none."""
    cgroups, proc = machine(
        tmp_path,
        "0::/pod/box\n",
        pod__box__memory_DOT_max="max\n",
        pod__box__memory_DOT_current=str(GIB),
        pod__memory_DOT_max=str(2 * GIB),
        pod__memory_DOT_current=str(GIB),
    )
    assert read_memory(cgroups=cgroups, proc=proc) == Memory(2 * GIB, GIB)


def test_version_1_of_cgroups_is_understood(tmp_path: Path) -> None:
    """Also where the path is the host's, and only the mount is the container's."""
    cgroups, proc = machine(
        tmp_path,
        "5:cpu,cpuacct:/x\n4:memory:/kubepods/pod1/box\n1:name=systemd:/x\n",
        memory__memory_DOT_limit_in_bytes=str(3 * GIB),
        memory__memory_DOT_usage_in_bytes=str(2 * GIB),
        memory__memory_DOT_stat=f"total_inactive_file {GIB}\ntotal_active_file 0\ntotal_mapped_file 0\n",
    )
    assert read_memory(cgroups=cgroups, proc=proc) == Memory(3 * GIB, GIB)


@pytest.mark.parametrize("groups", ["", "0::/none\n", "4:memory:/../..\n"])
def test_without_a_container_the_machine_is_the_limit(tmp_path: Path, groups: str) -> None:
    """A laptop has a limit too."""
    cgroups, proc = machine(tmp_path, groups)
    assert read_memory(cgroups=cgroups, proc=proc) == Memory(64 * GIB, 4 * GIB)


def test_a_set_limit_counts_the_servers_own_processes() -> None:
    """PANTRY_MEMORY_LIMIT needs no container."""
    memory = read_memory(GIB, os.getpid())
    assert memory.limit == GIB
    assert 0 < memory.used <= sum(map(pss_bytes, descendants(os.getpid()))) * 1.5
    assert anonymous_bytes(os.getpid()) > MIB


@pytest.mark.parametrize(
    ("config", "digest", "need"),
    [
        ("", "", Need(900, 100, 50, measured=True)),
        ("asset: model.pkl\n", "", Need(900, 100, 50, measured=True)),
        ("predictor: predictor.py:Predictor\n", "", Need(900, 100, 50, measured=True)),
        ("asset: other.pkl\n", "", None),
        ("", f"sha256:{'0' * 64}", None),
    ],
)
def test_a_bundle_needs_what_was_measured(tmp_path: Path, config: str, digest: str, need: Need | None) -> None:
    """The record of its packs tells; where it is none of the pickle that would be loaded, the size is a guess."""
    write_bundle(tmp_path / "m", Doubler(), config)
    bundle = Bundle.open(tmp_path / "m")
    packed = PackedPickle(
        path="model.pkl",
        digest=digest or bundle.asset("model.pkl").digest,
        form="pickle",
        environment=Environment("3", "2", {}),
        peak_bytes=900,
        resident_bytes=100,
        mapped_bytes=50,
    )
    assert need_of(bundle) == Need(bundle.manifest.size, bundle.manifest.size)
    (tmp_path / "m/.pack").mkdir()
    (tmp_path / "m/.pack/pack.json").write_bytes(PackRecord((packed,)).encode())
    assert need_of(bundle) == (need or Need(bundle.manifest.size, bundle.manifest.size))


def test_models_are_loaded_one_after_the_other() -> None:
    """The peak of one comes on top of what those before it keep; files that are mapped already cost nothing again."""
    needs = {ONE: Need(300, 200, 50, measured=True), TWO: Need(150, 100, 70, measured=True)}
    assert total_need((ONE, TWO), needs, ()) == Need(350, 300, 120, measured=True)
    assert total_need((TWO, ONE), needs, ()) == Need(400, 300, 120, measured=True)
    assert total_need((ONE, TWO), needs, (TWO,), own=10) == Need(360, 310, 50, measured=True)
    assert not total_need((ONE,), {}, ()).measured


@pytest.mark.parametrize(
    ("free", "held", "draining", "prefer", "measured", "verdict"),
    [
        (100, 0, False, "availability", True, Verdict.START),
        (99, 0, False, "availability", True, Verdict.REFUSE),
        (99, 0, False, "availability", False, Verdict.START),
        (99, 50, False, "availability", True, Verdict.REFUSE),
        (99, 50, False, "availability", False, Verdict.REFUSE),
        (99, 50, True, "availability", True, Verdict.WAIT),
        (99, 50, False, "resources", True, Verdict.DRAIN),
        (40, 50, False, "resources", True, Verdict.REFUSE),
        (40, 50, False, "resources", False, Verdict.DRAIN),
    ],
)
def test_what_happens_where_memory_is_short(
    free: int, held: int, draining: bool, prefer: str, measured: bool, verdict: Verdict
) -> None:
    """100 bytes are needed: what answers is never risked, what drains is waited for, nobody drains for nothing."""
    need = Need(80, 60, 20, measured=measured)
    assert judge_memory(need, Memory(200, 200 - free), held, draining, prefer) is verdict  # type: ignore[arg-type]


def test_the_largest_new_bundle_has_to_wait() -> None:
    """The others go on without it; where nothing is new, nobody is to blame."""
    needs = {ONE: Need(5), TWO: Need(4, 0, 2)}
    assert blame_for_memory((ONE, TWO), (), needs) == TWO
    assert blame_for_memory((ONE, TWO), (TWO,), needs) == ONE
    assert blame_for_memory((ONE,), (ONE, TWO), needs) is None


def test_five_deaths_in_a_minute_are_too_many() -> None:
    """Fewer, or farther apart, are replaced without a word."""
    assert dies_too_often([0, 10, 20, 30, 59], 59.0)
    assert not dies_too_often([0, 10, 20, 30, 61], 61.0)
    assert not dies_too_often([1, 2, 3, 4], 5.0)


def test_workers_may_grow_by_half_of_the_memory_together() -> None:
    """Unless a bound is set."""
    assert growth_bound(0, 800, 4) == 100
    assert growth_bound(7, 800, 4) == 7
