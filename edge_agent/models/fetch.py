"""Fetch the release that the signed plans require into a slot, tried and ready; refuse what is unfit.

One bounded step per call, so that deliver keeps delivering: refresh the chain, decide, download a slice
(resuming), verify, try in a subprocess, name it the candidate. A release that fails verification or trial is
refused for good, with its reason, and not downloaded again; a trial that never came to an end (the machine
died in it) counts as an attempt, and three of them are a refusal too. Never touches what serves: that is
perceive's.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_agent.models.bundle_fetch import BundleFetch, FreeBytes, free_bytes
from edge_agent.models.desired import (
    Intent,
    UnreadablePlan,
    check_plan,
    check_release,
    desired,
    plans_of,
    releases_of,
)
from edge_agent.models.fetch_journal import FetchJournal
from edge_agent.models.http import BoundedFetcher, StagedDownload, Transport, UrlTransport
from edge_agent.models.settings import FetchSettings
from edge_agent.models.slot_documents import NO_MODEL, Candidate, SlotRef
from edge_agent.models.slots import SlotFolder
from edge_agent.models.trial import SLOT_DAMAGED, TrialResult
from edge_agent.models.trial_run import TrialRun
from edge_agent.models.trust import OnlineTrust
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import read_vehicle
from foundation.clock import Clock
from foundation.errors import (
    CorruptError,
    FleetLoopError,
    MisconfiguredError,
    RejectedError,
    RetryLaterError,
    UntrustedError,
)
from foundation.events import EventLog
from foundation.retry import Backoff
from modelkit.bundle import Bundle
from modelkit.verify import verify_model
from schemas.bundle import check_bundle
from schemas.documents import Release, RolloutPlan
from schemas.reasons import RefuseReason

_TRIAL_POLL_S = 0.2
_SIDE_DOWNLOAD_S = 30.0
StartTrial = Callable[[Path, str, Path], TrialRun]


@dataclass(frozen=True, slots=True)
class FetchStep:
    """The result of one step, and when the next one makes sense."""

    outcome: Literal["idle", "ok", "failed"]
    detail: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class FetchStatus:
    """The fetcher in the agent's status. `phase` is idle, download or trial."""

    phase: str
    release_id: str
    bytes_staged: int
    bytes_total: int
    last_error: str
    refreshes: int
    unreadable_plans: int = 0
    """Plans of the newest list that this version cannot read; only their halts are obeyed."""


@dataclass(slots=True)
class _Work:
    """The release that is being fetched."""

    release: Release
    fetch: BundleFetch
    slots: SlotFolder
    trial: TrialRun | None = None
    result: TrialResult | None = None
    """Of the trial, which says it once; kept while the disk refuses what follows from it."""

    @property
    def slot(self) -> SlotRef:
        return SlotRef(self.release.model_digest, self.release.model_name, self.release.release_id)


class ModelFetcher:
    """The model job of deliver; the only writer of `candidate.json`, `fetch.json` and `state/trust`.

    Not thread-safe, but for `look_now`.

    Raises:
        MisconfiguredError: no base_url, or the vehicle was never enrolled.
    """

    def __init__(
        self,
        settings: FetchSettings,
        state_folder: Path,
        clock: Clock,
        events: EventLog,
        *,
        providers: tuple[str, ...] = (),
        cpu_fallback: str = "flag",
        htp_arch: int = 0,
        other_roles: tuple[str, ...] = (),
        transport: Transport | None = None,
        start_trial: StartTrial | None = None,
        free: FreeBytes = free_bytes,
        rng: random.Random | None = None,
    ) -> None:
        if not settings.base_url:
            raise MisconfiguredError("fetch.base_url is empty: name the folder or address of the repository")
        self._settings = settings
        self._on_hardware = (providers, cpu_fallback, htp_arch)
        self._slots = SlotFolder(state_folder)
        self._roles = (self._slots, *(SlotFolder(state_folder, role) for role in other_roles))
        self._refreshed_ns = 0
        self._trust = TrustFolder(state_folder)
        self._vehicle = read_vehicle(state_folder)
        self._clock = clock
        self._log = events
        self._journal = FetchJournal(clock, events)
        self._transport: Transport = transport or UrlTransport(settings.download)
        self._download = StagedDownload(self._transport, settings.download, clock)
        self._start_trial: StartTrial = start_trial or self._start_real_trial
        self._free_bytes = free
        self._backoff = Backoff(settings.backoff_first_s, settings.backoff_max_s, 2.0, rng)
        self._work: _Work | None = None
        self._interrupted: _Work | None = None
        self._not_before_ns = 0
        self._is_look_wanted = False
        self._last_error = ""
        self._refreshes = 0
        self._unreadable: list[str] = []

    def step(self) -> FetchStep:
        """Do one bounded amount of work. Raises nothing that network, repository or disk can cause."""
        if self._is_look_wanted and self._work is None and not self._last_error:
            self._not_before_ns = 0
        self._look_again_during_a_side_download()
        wait_s = (self._not_before_ns - self._clock.monotonic_ns()) / 1e9
        if wait_s > 0 and (self._work is None or self._work.trial is None):
            return FetchStep("idle", "", wait_s)
        self._journal.write_again()
        try:
            done = self._refresh() if self._work is None else self._bring(self._work)
        except RejectedError as error:
            return self._refuse(_refuse_reason(error.reason), str(error))
        except (RetryLaterError, UntrustedError, CorruptError) as error:
            return self._fail(error)
        except OSError as error:
            return self._fail(RetryLaterError(f"disk: {error}"))
        except MemoryError:
            return self._fail(RetryLaterError("this vehicle is out of memory"))
        self._backoff.reset()
        self._last_error = ""
        return done

    def look_now(self) -> None:
        """Make the next step refresh, unless it waits after a failure.

        From any thread. During a download or a refresh it is remembered until the next refresh begins.
        """
        self._is_look_wanted = True

    def status(self) -> FetchStatus:
        """Return the current status."""
        work = self._work
        if work is None:
            return FetchStatus("idle", "", 0, 0, self._last_error, self._refreshes, len(self._unreadable))
        phase = "download" if work.trial is None else "trial"
        return FetchStatus(
            phase,
            work.release.release_id,
            work.fetch.bytes_staged,
            work.release.model_bytes,
            self._last_error,
            self._refreshes,
            len(self._unreadable),
        )

    def close(self) -> None:
        """End a running trial; what is staged stays for the next start."""
        self._journal.write_again()
        if self._work is not None and self._work.trial is not None:
            self._work.trial.cancel()
        self._work = None

    # Deciding.

    def _refresh(self) -> FetchStep:
        self._is_look_wanted = False  # before anything is read: what is said from now on is asked for again
        fetcher = BoundedFetcher(self._transport, self._settings.download, self._clock)
        self._trust.hold_floor(self._clock)
        online = OnlineTrust(self._trust, self._settings.base_url, fetcher, self._clock)
        online.refresh()
        self._refreshes += 1
        plans = plans_of(
            online.fetch_index("rollouts")
        )  # first: a halt must come through whatever else is wrong
        self._tell_unreadable(plans)
        releases = releases_of(online.fetch_index("models"))
        self._refreshed_ns = self._clock.monotonic_ns()
        wanted = desired(plans, self._vehicle).release_id
        for slots in self._roles:
            intent = desired(plans, self._vehicle, slots.role)
            try:
                self._work = self._choose(slots, intent, releases, online)
            except FleetLoopError as error:
                if slots is self._slots:
                    raise
                self._log.emit(
                    "model_fetch_failed", level="warning", role=slots.role, reason=str(error)[:500]
                )
            if self._work is not None:
                break
        if self._work is None:
            self._tidy()
            self._wait(self._settings.poll_interval_s)
            return FetchStep("idle", f"the plans want {wanted}", self._settings.poll_interval_s)
        return FetchStep("ok", f"fetching release {self._work.release.release_id}", 0.0)

    def _tell_unreadable(self, plans: Sequence[RolloutPlan | UnreadablePlan]) -> None:
        reasons = [plan.reason for plan in plans if isinstance(plan, UnreadablePlan)]
        if reasons and reasons != self._unreadable:
            self._log.emit("plan_unreadable", level="warning", count=len(reasons), reason=reasons[-1][:500])
        self._unreadable = reasons

    def _choose(
        self, slots: SlotFolder, intent: Intent, releases: dict[str, Release], online: OnlineTrust
    ) -> _Work | None:
        wanted = intent.release_id
        state, fetched = slots.read_active(), self._journal.known(slots)
        candidate = self._candidate(slots)
        if candidate is not None and candidate.slot.release_id != wanted:
            slots.write_candidate(None)
            candidate = None
        settled = {state.active.release_id, *state.blocked, *fetched.refused}
        if wanted is None or wanted in settled:
            if candidate is not None:
                slots.write_candidate(None)
            return None
        if candidate is not None and slots.find(candidate.slot.digest) is not None:
            return None  # perceive has it
        release = releases.get(wanted)
        if release is None:
            raise RetryLaterError(f"a plan names release {wanted}, which the role models does not list")
        check_plan(intent.plan, release)
        files = check_release(release, lambda name: online.target("models", name))
        last = self._interrupted
        if last is not None and last.slots is slots and last.release == release and last.fetch.is_of(files):
            self._interrupted = None
            return last
        base_url = self._settings.base_url.rstrip("/")
        return _Work(release, BundleFetch(files, self._slots, base_url, self._download, self._clock), slots)

    def _look_again_during_a_side_download(self) -> None:
        """Interrupt a large download of another role to look for a halt or a release of the role serving."""
        work = self._work
        if work is None or work.slots is self._slots or work.trial is not None:
            return
        pause_s = max(self._settings.poll_interval_s, _SIDE_DOWNLOAD_S)
        if self._clock.monotonic_ns() - self._refreshed_ns > pause_s * 1e9:
            self._interrupted, self._work = work, None  # goes on where it was, if it is chosen again

    # Bringing in.

    def _bring(self, work: _Work) -> FetchStep:
        if work.trial is not None:
            return self._ask_trial(work, work.trial)
        check_bundle(work.fetch.files)
        if work.release.model_bytes > self._settings.max_model_bytes:
            limit = self._settings.max_model_bytes
            raise RejectedError(
                f"{work.release.model_bytes} bytes, the limit is {limit}", reason=RefuseReason.TOO_LARGE
            )
        path = self._slot(work)
        if path is None:
            work.fetch.check_room(self._free_bytes(self._slots.path), self._settings.min_free_bytes)
            if not work.fetch.advance(self._settings.slice_s):
                detail = f"{work.fetch.bytes_staged} of {work.release.model_bytes} bytes"
                return FetchStep("ok", detail, 0.0)
            path = self._fill(work)
        self._journal.count_attempt(work.slots, work.release.release_id)
        try:
            work.trial = self._start_trial(path, work.release.model_digest, self._slots.path / "trial_frames")
        except (OSError, MemoryError) as error:  # a full process table, say: nothing that the model did
            self._journal.forget_attempt(work.slots, work.release.release_id)
            raise RetryLaterError(f"the trial cannot be started: {error}") from error
        return FetchStep("ok", "trial started", _TRIAL_POLL_S)

    def _slot(self, work: _Work) -> Path | None:
        """Return the slot when an earlier start filled it; a damaged one is fetched again."""
        digest = work.release.model_digest
        if work.fetch.bytes_staged or self._slots.find(digest) is None:
            return None
        try:
            self._slots.verified(digest)
        except CorruptError:
            return None
        return self._slots.find(digest)

    def _fill(self, work: _Work) -> Path:
        """Put the fetched files into their slot, if they are an acceptable model."""
        files = work.fetch.files
        if len(files) > 1:
            folder = self._slots.path / "staging" / work.release.model_digest
            Bundle(folder, files).verified(is_hashed=True)
            self._slots.add_bundle(files)
            return self._slots.bundle_path(work.release.model_digest)
        staged = work.fetch.staged(files[0])
        data = staged.read_bytes()
        verify_model(data, work.release.model_digest)
        self._slots.add_slot(data)
        staged.unlink(missing_ok=True)
        return self._slots.slot_path(work.release.model_digest)

    def _ask_trial(self, work: _Work, trial: TrialRun) -> FetchStep:
        result = work.result = work.result or trial.poll()
        if result is None:
            return FetchStep("idle", "trial runs", _TRIAL_POLL_S)
        if result.reason == SLOT_DAMAGED:
            self._journal.forget_attempt(work.slots, work.release.release_id)
            self._work = None  # the slot is verified again, and fetched again if need be
            raise CorruptError(f"the trial could not use the slot: {result.detail}")
        if not result.passed:
            raise RejectedError(result.detail or result.reason, reason=result.reason)
        return self._offer(work, result)

    def _offer(self, work: _Work, result: TrialResult) -> FetchStep:
        work.slots.write_candidate(Candidate(work.slot, result.latency_p50_ns, result.frames))
        nodes = ", ".join(f"{provider} {count}" for provider, count in result.nodes.items())
        found = f"{result.frames} frames, p50 {result.latency_p50_ns} ns, nodes on {nodes or 'nothing known'}"
        self._journal.add(work.slots, work.slot, "trial_passed", found)
        self._work = None
        self._wait(self._settings.poll_interval_s)
        return FetchStep("ok", f"release {work.release.release_id} is ready", self._settings.poll_interval_s)

    # Failing.

    def _refuse(self, reason: RefuseReason, detail: str) -> FetchStep:
        work, self._work = self._work, None
        if work is None:
            return self._fail(UntrustedError(detail))
        self._journal.add(work.slots, work.slot, "refused", f"{reason}: {detail}"[:500], refused=reason)
        work.fetch.drop()
        self._log.emit(
            "model_refused", level="warning", release_id=work.release.release_id, reason=reason, detail=detail
        )
        self._wait(self._settings.poll_interval_s)
        return FetchStep("failed", f"release {work.release.release_id} refused: {reason}", 0.0)

    def _fail(self, error: FleetLoopError) -> FetchStep:
        text = str(error)[:500]
        if text != self._last_error:
            self._log.emit("model_fetch_failed", level="warning", kind=type(error).__name__, reason=text)
            if isinstance(error, UntrustedError):
                work = self._work
                slots, slot = (self._slots, NO_MODEL) if work is None else (work.slots, work.slot)
                self._journal.add(slots, slot, "untrusted", text)
        self._last_error = text
        if self._work is not None and self._work.trial is None:
            self._work = None  # the next step looks at the repository again; what is staged stays
        wait_s = self._backoff.next_s()
        self._wait(wait_s)
        return FetchStep("failed", text, wait_s)

    # Small parts.

    def _candidate(self, slots: SlotFolder) -> Candidate | None:
        try:
            return slots.read_candidate()
        except CorruptError as error:
            self._log.emit("candidate_damaged", level="error", reason=str(error))
            slots.write_candidate(None)
            return None

    def _start_real_trial(self, slot_path: Path, digest: str, frames: Path) -> TrialRun:
        return TrialRun(slot_path, digest, frames, self._settings.trial, self._clock, *self._on_hardware)

    def _tidy(self) -> None:
        """Remove staged files and unreferenced slots while nothing is wanted."""
        self._interrupted = None
        for path in (self._slots.path / "staging").glob("*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        trust = self._trust.path
        for folder in (self._slots.path / "slots", trust, self._trust.metadata, trust / "targets"):
            for path in folder.glob(".*.tmp"):  # left by a crash; only deliver writes in these folders
                path.unlink(missing_ok=True)
        try:
            self._slots.remove_unreferenced(self._clock)
        except RetryLaterError:
            return  # perceive is swapping; another time

    def _wait(self, seconds: float) -> None:
        self._not_before_ns = self._clock.monotonic_ns() + round(seconds * 1e9)


def _refuse_reason(word: str) -> RefuseReason:
    """Return the RefuseReason of a refusal; its detail is kept beside it."""
    try:
        return RefuseReason(word)
    except ValueError:
        return RefuseReason.MODEL_ERROR
