"""What the supervisor decides."""

from __future__ import annotations

from loader.bundle.models import ModelSpec
from loader.bundle.sync_status import SyncStatus
from serving.state import ModelState, Phase, is_ready
from serving.supervise.messages import BundleRef, Message
from serving.supervise.rules import Failure, Sighting, blame, choose_bundles, describe, next_failure

ONE = ModelSpec("m", "1", "gs://b/1")
TWO = ModelSpec("m", "2", "gs://b/2")
OTHER = ModelSpec("other", "1", "gs://b/o")
LAZY = ModelSpec("lazy", "1", "gs://b/l", on_demand=True)
REF_1, REF_2 = BundleRef("m", "1", "sha256:1"), BundleRef("m", "2", "sha256:2")
REF_OTHER, REF_LAZY = BundleRef("other", "1", "sha256:o"), BundleRef("lazy", "1", "sha256:l")


def test_the_desired_version_is_served_once_it_is_on_the_volume() -> None:
    """A new version takes the place of the old as soon as its bundle is there."""
    assert choose_bundles([TWO], {"m": Sighting(REF_2)}, [REF_1], [], []) == (REF_2,)


def test_the_old_version_goes_on_while_the_new_one_is_missing_or_failed() -> None:
    """Neither a missing nor a failed version takes away the one that answers."""
    assert choose_bundles([TWO], {"m": Sighting()}, [REF_1], [], []) == (REF_1,)
    assert choose_bundles([TWO], {"m": Sighting(REF_2)}, [REF_1], [REF_2], []) == (REF_1,)


def test_one_model_does_not_wait_for_another() -> None:
    """A model that is there is served although another is not."""
    assert choose_bundles([ONE, OTHER], {"m": Sighting(REF_1), "other": Sighting()}, [], [], []) == (REF_1,)


def test_a_model_that_is_no_longer_desired_goes() -> None:
    """What models.yaml does not list is not served."""
    assert choose_bundles([OTHER], {"other": Sighting(REF_OTHER)}, [REF_1], [], []) == (REF_OTHER,)


def test_an_on_demand_model_is_loaded_when_someone_asked_for_it() -> None:
    """On demand means at the first request, and from then on."""
    seen = {"lazy": Sighting(REF_LAZY)}
    assert choose_bundles([LAZY], seen, [], [], []) == ()
    assert choose_bundles([LAZY], seen, [], [], ["lazy"]) == (REF_LAZY,)
    assert choose_bundles([LAZY], seen, [REF_LAZY], [], []) == (REF_LAZY,)


def test_phases_follow_the_bundle_from_the_bucket_to_the_answer() -> None:
    """Each stage has its word, and bytes where they are known."""
    syncing = Sighting(sync=SyncStatus("syncing", 5, 10))
    assert describe(ONE, Sighting(), [], {}, {}).phase is Phase.WAITING
    assert describe(ONE, syncing, [], {}, {}) == ModelState("m", "1", Phase.SYNCING, 5, 10)
    assert describe(ONE, Sighting(sync=SyncStatus("failed", reason="no")), [], {}, {}).reason == "no"
    there = Sighting(REF_1, 10)
    assert describe(ONE, there, [], {}, {}) == ModelState("m", "1", Phase.LOADING, 0, 10)
    loading = {REF_1: Message(Phase.LOADING, "m", 7, 10)}
    assert describe(ONE, there, [], {}, loading) == ModelState("m", "1", Phase.LOADING, 7, 10)
    assert describe(ONE, there, [REF_1], {}, {}) == ModelState("m", "1", Phase.READY, 10, 10, serving="1")
    failed = describe(TWO, Sighting(REF_2, 10), [REF_1], {REF_2: Failure("broken", 1, 0)}, {})
    assert failed == ModelState("m", "2", Phase.FAILED, reason="broken", serving="1")
    dying = describe(ONE, there, [REF_1], {REF_1: Failure("it kills its workers", 1, 0)}, {})
    assert (dying.phase, dying.serving) == (Phase.FAILED, "1")


def test_a_failure_is_tried_again_later_and_later() -> None:
    """There is no crash loop, and nothing stays down for ever."""
    first = next_failure(None, "why", 100.0)
    second = next_failure(first, "why", 200.0)
    assert (first.retry_at, second.retry_at) == (160.0, 320.0)
    tenth = second
    for _ in range(20):
        tenth = next_failure(tenth, "why", 0.0)
    assert tenth.retry_at == 3600.0


def test_the_new_bundle_is_blamed_for_a_generation_that_died_without_a_word() -> None:
    """The model that was being loaded is suspected first, then what did not answer before."""
    assert blame((REF_1, REF_OTHER), (), "other") == (REF_OTHER,)
    assert blame((REF_2, REF_OTHER), (REF_OTHER,), "") == (REF_2,)


def test_readiness_waits_for_all_at_first_and_for_nobody_later() -> None:
    """A new model on its way does not take a ready server out of the load balancer."""
    serving = ModelState("m", "1", Phase.READY, serving="1")
    coming = ModelState("other", "1", Phase.SYNCING)
    broken = ModelState("other", "1", Phase.FAILED)
    lazy = ModelState("lazy", "1", Phase.WAITING, on_demand=True)
    assert not is_ready((serving, coming), was_ready=False)
    assert is_ready((serving, coming), was_ready=True)
    assert is_ready((serving, broken), was_ready=False)
    assert not is_ready((coming,), was_ready=True)
    assert is_ready((serving, lazy), was_ready=False)
    assert not is_ready((), was_ready=True)
