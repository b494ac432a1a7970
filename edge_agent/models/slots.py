"""Model slots: immutable files named by digest; one atomically replaced file names the slot that serves.

    models/slots/<sha256>.onnx   verified bytes, never written twice   (writer: deliver; enrolment for the
    first)
    models/factory.json          the model of enrolment, never changed (writer: enrolment)
    models/active.json           serving, previous, blocked, events    (writer: perceive)
    models/candidate.json        the slot that passed its trial        (writer: deliver)
    models/fetch.json            what was refused, and events          (writer: deliver)
    models/roles/<role>/         active.json, candidate.json and fetch.json of a role beside serving, which has no
                                 factory model and may have none at all

Two roles, A (serving) and B (next), as in any A/B scheme; but a slot is never overwritten, so that fetching
the next model cannot take away the one to roll back to. Unreferenced slots are removed under the folder's
lock.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foundation import syscalls
from foundation.clock import Clock
from foundation.errors import CorruptError, RejectedError
from foundation.files import FileLock, read_json, write_atomic, write_json_atomic
from modelkit.digest import sha256_hex
from schemas.records import MAX_MODEL_EVENTS, ModelEvent
from schemas.roles import SERVING, is_role

_DIGEST = re.compile(r"[0-9a-f]{64}")
FORMAT = 1


@dataclass(frozen=True, slots=True)
class SlotRef:
    """A model in a slot. `release_id` is empty for the factory model."""

    digest: str
    name: str
    release_id: str = ""


NO_MODEL = SlotRef("", "")
"""The slot of a role beside serving that has no model."""


@dataclass(frozen=True, slots=True)
class ActiveState:
    """What perceive last decided. One atomic file: there is no state between two models."""

    active: SlotRef
    previous: SlotRef | None = None
    confirmed: bool = True
    """Whether the active model has served its probation; until then a crash counts against it."""
    starts: int = 0
    """Starts of perceive with the active model while it was not confirmed, or after a crash of the process."""
    swaps: int = 0
    rollbacks: int = 0
    blocked: Mapping[str, str] = field(default_factory=dict)
    """release_id -> why it never serves on this vehicle again."""
    events: tuple[ModelEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A verified slot that passed its trial on this vehicle, waiting for a gap between two frames."""

    slot: SlotRef
    trial_latency_p50_ns: int = 0
    trial_frames: int = 0


@dataclass(frozen=True, slots=True)
class FetchState:
    """What deliver knows: releases refused for good (release_id -> reason), and what happened."""

    refused: Mapping[str, str] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    """release_id -> trials begun that came to no end (the machine or deliver died in them)."""
    events: tuple[ModelEvent, ...] = ()


class SlotFolder:
    """The files under `state/models`, read and written whole."""

    def __init__(self, state_folder: Path, role: str = SERVING) -> None:
        self.path = state_folder / "models"
        self.role = role
        self._files = self.path if role == SERVING else self.path / "roles" / role

    def other_roles(self) -> list[str]:
        """Roles beside serving of which anything was ever written, sorted."""
        return sorted(path.name for path in (self.path / "roles").glob("*") if is_role(path.name))

    def lock(self, clock: Clock, wait_s: float = 0.0) -> FileLock:
        """Held while slots appear or vanish, and while perceive makes one its own. Raises RetryLaterError."""
        return FileLock(self.path / ".lock", wait_s=wait_s, clock=clock)

    def slot_path(self, digest: str) -> Path:
        """Where the model of `digest` is. Raises RejectedError for anything but a digest."""
        if _DIGEST.fullmatch(digest) is None:
            raise RejectedError(f"{digest[:100]!r} is not a lower-case sha256", reason="invalid_value")
        return self.path / "slots" / f"{digest}.onnx"

    def read_slot(self, digest: str) -> bytes:
        """The bytes of a slot.

        Raises:
            CorruptError: the slot is missing or its bytes are not those of its name.
        """
        path = self.slot_path(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptError(f"model slot cannot be read: {error.strerror}", path=path) from error
        if sha256_hex(data) != digest:
            raise CorruptError(f"model slot holds sha256 {sha256_hex(data)}", path=path)
        return data

    def add_slot(self, data: bytes) -> str:
        """Put bytes into the slot of their digest, durably. Returns the digest."""
        digest = sha256_hex(data)
        path = self.slot_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        return digest

    def read_factory(self) -> SlotRef:
        """The model that enrolment installed. Raises CorruptError when there is none."""
        path = self.path / "factory.json"
        return _slot_ref(_document(path), path)

    def write_factory(self, slot: SlotRef) -> None:
        """Once, at enrolment."""
        write_json_atomic(self.path / "factory.json", {"format": FORMAT, **dataclasses.asdict(slot)})

    def read_active(self) -> ActiveState:
        """What has the role. Raises CorruptError: damaged, or missing in the role serving."""
        path = self._files / "active.json"
        if self.role != SERVING and not path.exists():
            return ActiveState(NO_MODEL)
        return _active_state(_document(path), path)

    def write_active(self, state: ActiveState) -> None:
        """Perceive's word: atomic and durable."""
        self._write("active.json", _plain(state))

    def keep_damaged(self) -> None:
        """Put a damaged `active.json` aside for a person."""
        path = self._files / "active.json"
        if path.exists():
            syscalls.rename(path, path.with_name("active.json.damaged"))

    def read_candidate(self) -> Candidate | None:
        """The candidate, or None. Raises CorruptError."""
        path = self._files / "candidate.json"
        if not path.exists():
            return None
        document = _document(path)
        slot = _slot_ref(_object(document, "slot", path), path)
        return Candidate(
            slot, _int(document, "trial_latency_p50_ns", path), _int(document, "trial_frames", path)
        )

    def write_candidate(self, candidate: Candidate | None) -> None:
        """Deliver's word; None takes it back."""
        path = self._files / "candidate.json"
        if candidate is None:
            if path.exists():
                syscalls.unlink(path)
            return
        self._write(path.name, _plain(candidate))

    def read_fetch(self) -> FetchState:
        """What deliver knows; empty before its first word. Raises CorruptError."""
        path = self._files / "fetch.json"
        if not path.exists():
            return FetchState()
        document = _document(path)
        return FetchState(
            _strings(document, "refused", path), _counts(document, "attempts", path), _events(document, path)
        )

    def write_fetch(self, state: FetchState) -> None:
        """Atomic and durable."""
        self._write("fetch.json", _plain(state))

    def _write(self, name: str, document: dict[str, object]) -> None:
        self._files.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self._files / name, {"format": FORMAT, **document})

    def remove_unreferenced(self, clock: Clock, wait_s: float = 0.0) -> list[str]:
        """Unlink every slot that no file names. Returns their digests. Raises RetryLaterError while perceive swaps."""
        with self.lock(clock, wait_s):
            keep = self._referenced()
            removed = []
            for path in sorted((self.path / "slots").glob("*.onnx")):
                if path.stem not in keep:
                    syscalls.unlink(path)
                    removed.append(path.stem)
            return removed

    def _referenced(self) -> set[str]:
        active = self.read_active()
        candidate = self.read_candidate()
        refs = [self.read_factory(), active.active, active.previous, candidate.slot if candidate else None]
        for role in self.other_roles():
            other = SlotFolder(self.path.parent, role)
            try:
                waiting = other.read_candidate()
                refs += [other.read_active().active, waiting.slot if waiting else None]
            except CorruptError:
                continue  # what it named is fetched again
        return {ref.digest for ref in refs if ref is not None}


def install_initial(state_folder: Path, model_bytes: bytes, clock: Clock) -> SlotRef:
    """Give a vehicle its first model at enrolment.

    Verified like any other; not signed, because the person who enrols is there.

    Raises:
        RejectedError: the bytes are no acceptable model (reason as in modelkit.verify), or another model is
            installed already.
    """
    from modelkit.verify import verify_model

    verified = verify_model(model_bytes, None)
    folder = SlotFolder(state_folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    slot = SlotRef(verified.digest, verified.contract.name)
    if (folder.path / "active.json").exists():
        installed = folder.read_factory()
        if installed.digest != slot.digest:
            raise RejectedError(
                f"{folder.path} already holds the factory model {installed.digest}, not {slot.digest}",
                reason="conflict",
            )
        return installed
    folder.add_slot(model_bytes)
    folder.write_factory(slot)
    event = ModelEvent(clock.now_ns(), slot.digest, slot.name, "installed")
    folder.write_active(ActiveState(slot, events=(event,)))
    return slot


def with_event(events: tuple[ModelEvent, ...], event: ModelEvent) -> tuple[ModelEvent, ...]:
    """The journal with one more event; the oldest leave when telemetry could not carry them."""
    return (*events, event)[-MAX_MODEL_EVENTS:]


def _plain(state: ActiveState | Candidate | FetchState) -> dict[str, object]:
    return dataclasses.asdict(state)


def _document(path: Path) -> dict[str, object]:
    try:
        value = read_json(path)
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}", path=path) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CorruptError(f"is not a format {FORMAT} document", path=path)
    return value


def _active_state(document: dict[str, object], path: Path) -> ActiveState:
    previous = document.get("previous")
    confirmed = document.get("confirmed")
    if not isinstance(confirmed, bool):
        raise CorruptError(f"confirmed is {confirmed!r}, not true or false", path=path)
    return ActiveState(
        active=_slot_ref(_object(document, "active", path), path),
        previous=None if previous is None else _slot_ref(_object(document, "previous", path), path),
        confirmed=confirmed,
        starts=_int(document, "starts", path),
        swaps=_int(document, "swaps", path),
        rollbacks=_int(document, "rollbacks", path),
        blocked=_strings(document, "blocked", path),
        events=_events(document, path),
    )


def _object(document: dict[str, object], key: str, path: Path) -> dict[str, object]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise CorruptError(f"{key} is {value!r}, not an object", path=path)
    return value


def _slot_ref(document: dict[str, object], path: Path) -> SlotRef:
    digest, name, release_id = (document.get(key) for key in ("digest", "name", "release_id"))
    if (digest, name, release_id) == ("", "", "") and path.parent.parent.name == "roles":
        return NO_MODEL
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise CorruptError(f"digest is {digest!r}, not a sha256", path=path)
    if not isinstance(name, str) or not isinstance(release_id, str):
        raise CorruptError(f"name {name!r} or release_id {release_id!r} is not a string", path=path)
    return SlotRef(digest, name, release_id)


def _int(document: dict[str, object], key: str, path: Path) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CorruptError(f"{key} is {value!r}, not an integer", path=path)
    return value


def _strings(document: dict[str, object], key: str, path: Path) -> dict[str, str]:
    value = document.get(key)
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise CorruptError(f"{key} is {value!r}, not an object of strings", path=path)
    return value


def _counts(document: dict[str, object], key: str, path: Path) -> dict[str, int]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise CorruptError(f"{key} is {value!r}, not an object", path=path)
    return {name: _int(value, name, path) for name in value}


def _events(document: dict[str, object], path: Path) -> tuple[ModelEvent, ...]:
    value = document.get("events")
    if not isinstance(value, list):
        raise CorruptError(f"events is {value!r}, not a list", path=path)
    try:
        return tuple(ModelEvent(**each) for each in value)
    except TypeError as error:
        raise CorruptError(f"an event is malformed: {error}", path=path) from error
