"""A fake of the annotation backend, which holds the same promises as the real parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from connectors.labels.ports import Label
from foundation.clock import Clock, SystemClock


class DictLabelDesk:
    """A desk that knows a dictionary payload_sha256 -> class_name, and remembers what it was asked."""

    def __init__(
        self,
        labels: Mapping[str, str],
        *,
        labeller: str = "desk",
        cost: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self.asked: list[str] = []
        self.cost_spent = 0.0
        self._labels = dict(labels)
        self._labeller = labeller
        self._cost = cost
        self._clock = clock or SystemClock()

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        """See `LabelDesk.request`. Only an answer costs."""
        wanted = list(dict.fromkeys(payload_sha256s))
        self.asked.extend(wanted)
        now_ns = self._clock.now_ns()
        answers = [
            Label(sha256, self._labels[sha256], self._labeller, now_ns, self._cost)
            for sha256 in wanted
            if sha256 in self._labels
        ]
        self.cost_spent += sum(label.cost for label in answers)
        return answers
