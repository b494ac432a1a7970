"""The interface of an annotation backend. This module does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Label:
    """One annotator's label of one payload. `cost` is in label units (1 per label by default).

    `value` is the value of the task's label column: the class, or a list of boxes as plain mappings.
    """

    payload_sha256: str
    value: Any
    labeller: str
    labelled_time_ns: int
    cost: float = 1.0


class LabelDesk(Protocol):
    """Annotators, asked for labels of payloads by their hash; every answer costs."""

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        """Return labels in the order requested; a payload that cannot be answered is left out."""
