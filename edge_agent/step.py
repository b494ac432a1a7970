"""The result of one bounded step of a job: idle, ok or failed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing could be done: nothing pending, or all that is allowed is in flight. Call again after `wait_s`."""

    wait_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Ok:
    """Progress was made."""

    sent: int
    acknowledged: int


@dataclass(frozen=True, slots=True)
class Failed:
    """No progress, and why. The next attempt is due after `wait_s`; nothing is lost by calling earlier."""

    reason: str
    wait_s: float


StepResult = Idle | Ok | Failed
