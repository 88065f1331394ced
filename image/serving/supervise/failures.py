"""What could not be had: which bundles, why, and when each is tried again."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from serving.supervise import rules
from serving.supervise.messages import BundleRef
from serving.supervise.rules import Failure


class Failures:
    """The failures that still matter.

    Attributes:
        of: each bundle that failed.
        empty: of generations without models; None again once anything answers.
    """

    def __init__(self) -> None:
        self.of: dict[BundleRef, Failure] = {}
        self.empty: Failure | None = None

    def note(self, refs: Iterable[BundleRef], reason: str) -> None:
        """Bundles failed once more: each is left alone for longer than the time before."""
        for ref in refs:
            self.of[ref] = rules.next_failure(self.of.get(ref), reason, time.monotonic())

    def note_empty(self, reason: str) -> None:
        """A generation without models failed."""
        self.empty = rules.next_failure(self.empty, reason, time.monotonic())

    def postpone(self, ref: BundleRef, reason: str, retry_at: float) -> None:
        """A bundle was not tried, and will not be before some monotonic second."""
        self.of[ref] = Failure(reason, 0, retry_at)

    def forget(self, refs: Iterable[BundleRef]) -> None:
        """These answer."""
        for ref in refs:
            self.of.pop(ref, None)

    def keep(self, refs: Collection[BundleRef]) -> None:
        """Forget all but these."""
        self.of = {ref: failure for ref, failure in self.of.items() if ref in refs}

    @property
    def resting(self) -> set[BundleRef]:
        """The bundles whose time to be tried again has not come."""
        now = time.monotonic()
        return {ref for ref, failure in self.of.items() if now < failure.retry_at}

    @property
    def empty_rests(self) -> bool:
        """Whether a generation without models has failed, and its time to be tried again has not come."""
        return self.empty is not None and time.monotonic() < self.empty.retry_at

    def broken(self, refs: Iterable[BundleRef]) -> list[BundleRef]:
        """Return those that were tried and failed."""
        return [ref for ref in refs if (failure := self.of.get(ref)) and failure.attempts]
