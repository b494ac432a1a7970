"""Judge, frame by frame, whether the serving model is healthy. Decides; never acts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edge_agent.models.settings import HealthSettings
from modelkit.predictor import Prediction
from schemas.reasons import RollbackReason
from schemas.records import Health


class HealthWatch:
    """Counts since the agent started, and a sliding window on the model that serves now."""

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._failed: deque[bool] = deque(maxlen=settings.window_frames)
        self._latencies_ns: deque[int] = deque(maxlen=settings.window_frames)
        self._errors = 0
        self._not_finite = 0
        self._last_error = ""
        self.frames = 0
        """Frames since the last `restart`."""

    def restart(self) -> None:
        """Start judging another model, by its own frames only. The counts continue."""
        self._failed.clear()
        self._latencies_ns.clear()
        self.frames = 0

    def failed(self, message: str) -> RollbackReason | None:
        """Record a failed inference. Returns why to roll back, or None."""
        self._errors += 1
        self._last_error = message[:500]
        self.frames += 1
        self._failed.append(True)
        return self._verdict()

    def answered(self, predictions: Sequence[Prediction], latency_ns: int) -> RollbackReason | None:
        """Record an inference that returned after `latency_ns`. Returns why to roll back, or None."""
        self.frames += 1
        bad = sum(not prediction.is_finite for prediction in predictions)
        self._failed.append(bad > 0)
        self._latencies_ns.append(latency_ns)
        if bad:
            self._not_finite += bad
            self._last_error = f"{bad} of {len(predictions)} outputs not finite"
            return RollbackReason.NOT_FINITE
        return self._verdict()

    def report(self) -> Health:
        """Return the values for status and telemetry."""
        ordered = sorted(self._latencies_ns)
        last = len(ordered) - 1
        return Health(
            error_count=self._errors,
            nan_count=self._not_finite,
            latency_p50_ns=ordered[len(ordered) // 2] if ordered else 0,
            latency_p99_ns=ordered[min(last, len(ordered) * 99 // 100)] if ordered else 0,
            last_error=self._last_error,
        )

    def _verdict(self) -> RollbackReason | None:
        if len(self._failed) < self._settings.min_frames:
            return None
        if sum(self._failed) > self._settings.max_error_ratio * len(self._failed):
            return RollbackReason.ERROR_RATIO
        # The median is computed once in min_frames frames: sorting on every frame would distort the latency.
        if (
            self.frames % self._settings.min_frames == 0
            and len(self._latencies_ns) >= self._settings.min_frames
        ):
            p50_ns = sorted(self._latencies_ns)[len(self._latencies_ns) // 2]
            if p50_ns > self._settings.max_latency_p50_s * 1e9:
                return RollbackReason.TOO_SLOW
        return None
