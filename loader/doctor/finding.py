"""Finding: one thing that is wrong with a release, in words."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["problem", "warning"]


class Finding(msgspec.Struct, frozen=True):
    """What is wrong, where, and what to do about it.

    Attributes:
        severity: a problem keeps the release from doing its work; a warning may, or will.
        where: the object as KIND/NAME, or what else it is about.
        says: one sentence without its full stop: expected, got.
        hint: the next step, a value of the chart to change or a command to run.
    """

    severity: Severity
    where: str
    says: str
    hint: str

    def __str__(self) -> str:
        """Return it as two lines: what is wrong, and the next step beneath."""
        return f"{self.severity}: {self.where}: {self.says}.\n{' ' * (len(self.severity) + 2)}{self.hint}."


def problem(where: str, says: str, hint: str) -> Finding:
    """Return a finding of something that does not work."""
    return Finding("problem", where, says.strip().rstrip("."), hint)


def warning(where: str, says: str, hint: str) -> Finding:
    """Return a finding of something that may not work, or is only on its way."""
    return Finding("warning", where, says.strip().rstrip("."), hint)
