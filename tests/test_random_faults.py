"""Random bundles through random faults, on a real socket: a bundle is there, whole and right, or has no final name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.lying_store import lies
from tests.lying_store.store import EVER, PREFIX, Kind, Lie, LyingStore, running
from tests.lying_store.syncing import IMPATIENT, assert_refused, assert_synced, held, leftovers, sync_here
from tests.sources import published

IN_HASTE = {**IMPATIENT, "FIRST_PAUSE_SECONDS": 0.002, "GIVE_UP_AFTER_SECONDS": 0.25, "READ_SECONDS": 0.1}
NAMES = ["model.pkl", *(f"{letter}/{number}" for letter in "abc" for number in range(9)), "z é", "model.yaml"]


def refused(code: int, _: LyingStore) -> Lie:
    return lies.status(code)


LIES: dict[str, Callable[[LyingStore], Lie]] = {
    **{str(code): partial(refused, code) for code in (400, 401, 403, 404, 408, 429, 500, 502, 503, 504)},
    "truncated": lambda _: lies.truncated,
    "short": lambda _: lies.short,
    "long": lambda _: lies.long,
    "Content-Length too long": lambda _: lies.length_too_long,
    "Content-Length too short": lambda _: lies.length_too_short,
    "flipped": lambda _: lies.flipped,
    "200": lies.whole_object,
    "other Content-Range": lambda _: lies.other_content_range,
    "other range": lambda store: lies.other_range(store, admits=True),
    "other range, denied": lambda store: lies.other_range(store, admits=False),
    "reset": lambda _: lies.reset,
    "reset at once": lambda _: lies.reset_at_once,
    "closed": lambda _: lies.closed_at_once,
    "garbage": lambda _: lies.garbage,
    "a web page": lambda _: lies.html,
    "stalled": lambda _: lies.stalled(0.3, after=1),
    "redirected": lambda _: lies.redirected(lambda ask: ask.path, 307),
}
OF_LISTINGS = ["403", "408", "429", "503", "truncated", "short", "reset", "closed", "garbage", "a web page", "404"]


@dataclass(frozen=True)
class Fault:
    """A lie to reads of the how many-th object, or to listings; what happens to that object meanwhile."""

    name: str
    kind: Kind
    which: int
    skip: int
    times: int

    def tell(self, store: LyingStore, names: list[str]) -> None:
        name = names[self.which % len(names)] if self.kind == "media" and names else None
        if self.name == "replaced":
            assert name
            data = store.objects[PREFIX + name].data
            lie = lies.does(lambda: store.put({name: data[::-1] if self.times % 2 else data}))
        elif self.name == "removed":
            assert name
            lie = lies.does(lambda: store.remove(name))
        else:
            lie = LIES[self.name](store)
        store.lies(lie, kind=self.kind, name=name, skip=self.skip, times=self.times)


of_reads = st.builds(
    Fault,
    st.sampled_from([*LIES, "replaced", "removed"]),
    st.just("media"),
    st.integers(0, 30),
    st.integers(0, 3),
    st.sampled_from([1, 1, 2, 3, EVER]),
)
of_listings = st.builds(
    Fault, st.sampled_from(OF_LISTINGS), st.just("list"), st.just(0), st.integers(0, 2), st.sampled_from([1, 2, EVER])
)
schedules = st.lists(st.one_of(of_reads, of_reads, of_reads, of_listings), max_size=6)


@st.composite
def bundles(draw: st.DrawFn) -> tuple[int, dict[str, bytes]]:
    """A chunk size, and up to 30 files of up to three chunks and a byte."""
    chunk = draw(st.sampled_from([1, 7, 1000, 50_000]))
    sizes = st.sampled_from([0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk, 3 * chunk + 1])
    seeds = draw(st.dictionaries(st.sampled_from(NAMES), st.tuples(sizes, st.integers(0, 255)), max_size=30))
    return chunk, {name: bytes((seed + at) % 251 for at in range(size)) for name, (size, seed) in seeds.items()}


@pytest.fixture(name="store", scope="module")
def one_server() -> Iterator[LyingStore]:
    with running(LyingStore()) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.mark.timeout(200)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(bundles(), st.booleans(), st.booleans(), st.booleans(), st.lists(schedules, min_size=1, max_size=3))
def test_random_faults(
    store: LyingStore,
    bundle: tuple[int, dict[str, bytes]],
    plain: bool,
    with_crc32c: bool,
    keeps_generations: bool,
    runs: list[list[Fault]],
) -> None:
    """Under any faults the bundle is there, whole and right, or has no final name; a run without faults ends right."""
    chunk, files = bundle
    objects = files if plain else published(files, chunk)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "volume"
        root.mkdir()
        store.forget()
        store.put(objects)
        done: dict[str, bytes] | None = None
        blind = False
        for faults in runs:
            store.with_crc32c, store.keeps_generations = with_crc32c or not plain, keeps_generations
            for fault in faults:
                if objects or fault.kind == "list":
                    fault.tell(store, sorted(objects))
            outcome = sync_here(root, seconds=IN_HASTE)
            event(f"{'plain' if plain else 'published'}: {outcome.status}")
            there = held(root)
            if outcome.status == 0:
                assert there is not None
                assert leftovers(root) == []
            elif there is None:
                assert_refused(outcome, root)
            # Where a plain prefix has no crc32c either, nothing tells wrong bytes from right ones.
            blind |= plain and not with_crc32c and any(fault.name in UNSEEN for fault in faults)
            assert there in (None, files) or blind
            assert done is None or there == done, "a bundle has changed under its final name"
            done = there
            store.behave()
            store.put({name: data for name, data in objects.items() if here(store).get(name) != data})
        if not files:
            assert sync_here(root).status == 1
            assert held(root) is None
        elif done is None:
            assert_synced(sync_here(root), root, files)


UNSEEN = ("flipped", "other range, denied")


def here(store: LyingStore) -> dict[str, bytes]:
    """What the store holds now."""
    return {name.removeprefix(PREFIX): stored.data for name, stored in store.objects.items()}
