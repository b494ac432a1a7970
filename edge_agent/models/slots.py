"""Model slots: immutable files named by digest; one atomically replaced file per role names the slot that has it.

    models/slots/<digest>.onnx   a model of one file: verified bytes, never written twice (writer: deliver;
                                 enrolment for the first)
    models/slots/<digest>/       a bundle: its files, and their list in .bundle.json      (writer: deliver)
    models/factory.json          the model of enrolment, never changed (writer: enrolment)
    models/roles/<role>/
        active.json              the role's model, the one before it, blocked, events (writer: perceive)
        candidate.json           the slot that passed its trial        (writer: deliver)
        fetch.json               what was refused, and events          (writer: deliver)

Releases before roles kept the files of serving in `models/`; each is read and written there until `fleetloop migrate`
has moved it. Where both exist, such a release was put back after the move and wrote last: what it says holds, united with
what was blocked, refused and counted before. In each role a slot is never overwritten, so that fetching the next model
cannot take away the one to roll back to. Unreferenced slots are removed under the folder's lock.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edge_agent.models.slot_documents import (
    ACTIVE,
    CANDIDATE,
    FACTORY,
    FETCH,
    FILES,
    NO_MODEL,
    UNITED,
    ActiveState,
    BundleList,
    Candidate,
    FetchState,
    SlotRef,
    named,
)
from foundation import syscalls
from foundation.clock import Clock
from foundation.documents import DocumentType
from foundation.errors import CorruptError, RejectedError
from foundation.files import FileLock, fsync_folder, read_document, write_atomic, write_document
from modelkit.digest import sha256_hex
from schemas.bundle import BundleFile, bundle_digest
from schemas.reasons import RefuseReason
from schemas.records import ModelEvent
from schemas.roles import SERVING, is_role

if TYPE_CHECKING:
    from modelkit.verify import VerifiedModel

T = TypeVar("T")
_DIGEST = re.compile(r"[0-9a-f]{64}")
BUNDLE_LIST: Final = ".bundle.json"
_GONE: Final = ".gone"
ROLE_FILES: Final = ("fetch.json", "candidate.json", "active.json")


class SlotFolder:
    """The files under `state/models` that concern one role, read and written whole."""

    def __init__(self, state_folder: Path, role: str = SERVING) -> None:
        self.path = state_folder / "models"
        self.role = role
        self._files = self.path / "roles" / role

    @property
    def has_factory(self) -> bool:
        """Whether the role begins with the model of enrolment and is never without one; any other may be absent."""
        return self.role == SERVING

    def other_roles(self) -> list[str]:
        """Roles beside serving of which anything was ever written, sorted."""
        found = (path.name for path in (self.path / "roles").glob("*"))
        return sorted(name for name in found if is_role(name) and name != SERVING)

    def file(self, name: str) -> Path:
        """Return where one of ROLE_FILES is, or would be written."""
        old = self.old_file(name)
        return old if old is not None and old.exists() else self.new_file(name)

    def new_file(self, name: str) -> Path:
        """Return where it is in the layout of today."""
        return self._files / name

    def old_file(self, name: str) -> Path | None:
        """Return where releases before roles kept it; None for a role that they did not know."""
        return self.path / name if self.role == SERVING else None

    def move_old_file(self, name: str) -> None:
        """Move a file of a release before roles to its place today, durably. A crash leaves it in one of the two, or both.

        What lies there already is united with it; if it is damaged, it is set aside as `<name>.damaged`.

        Raises:
            CorruptError: both exist, and the one to be moved is damaged.
        """
        old = self.old_file(name)
        if old is None or not old.exists():
            return
        self._files.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self._files.parent):
            fsync_folder(folder)
        new = self.new_file(name)
        if new.exists() and name in UNITED:
            kind, _unite = UNITED[name]
            united = self._read_united(name)
            try:
                _read(new, kind)
            except CorruptError:
                syscalls.rename(new, new.with_name(f"{name}.damaged"))
            write_document(new, kind, united)
            syscalls.unlink(old)
        else:
            syscalls.rename(old, new)
        fsync_folder(self._files)
        fsync_folder(self.path)

    def lock(self, clock: Clock, wait_s: float = 0.0) -> FileLock:
        """Return the lock held while slots are added, removed or activated. Raises RetryLaterError."""
        return FileLock(self.path / ".lock", wait_s=wait_s, clock=clock)

    def slot_path(self, digest: str) -> Path:
        """Return where the model of `digest` is. Raises RejectedError for anything but a digest."""
        if _DIGEST.fullmatch(digest) is None:
            raise RejectedError(f"{digest[:100]!r} is not a lower-case sha256", reason="invalid_value")
        return self.path / "slots" / f"{digest}.onnx"

    def bundle_path(self, digest: str) -> Path:
        """Return the folder of the bundle of `digest`. Raises RejectedError for anything but a digest."""
        return self.slot_path(digest).with_suffix("")

    def staging_path(self, files: Sequence[BundleFile], file: BundleFile) -> Path:
        """Return where a file is staged until all files of its model are complete and verified."""
        if len(files) == 1:
            return self.path / "staging" / f"{file.sha256}.part"
        return self.path / "staging" / bundle_digest(files) / file.path

    def find(self, digest: str) -> Path | None:
        """Return the file or folder of a slot, or None; its contents are not checked."""
        for path in (self.slot_path(digest), self.bundle_path(digest)):
            if path.exists():
                return path
        return None

    def verified(self, digest: str, on_progress: Callable[[], None] = lambda: None) -> VerifiedModel:
        """Return the model of a slot, its bytes verified. `on_progress` is called for each piece of a bundle.

        Raises:
            CorruptError: the slot is missing, or its bytes are not those of its name.
            RejectedError: they are no acceptable model.
        """
        from modelkit.verify import verify_model

        path = self.bundle_path(digest)
        if path.is_dir():
            return verified_bundle(path, digest, on_progress)
        return verify_model(self.read_slot(digest), digest)

    def add_bundle(self, files: Sequence[BundleFile]) -> None:
        """Make the staged folder of a bundle its slot, durably: all of it, or nothing."""
        digest = bundle_digest(files)
        path, staged = self.bundle_path(digest), self.path / "staging" / digest
        write_document(staged / BUNDLE_LIST, FILES, BundleList(tuple(files)))
        for folder in {staged / parent for file in files for parent in Path(file.path).parents}:
            fsync_folder(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():  # damaged: what is in it was fetched again
            shutil.rmtree(path)
        syscalls.rename(staged, path)
        fsync_folder(path.parent)
        fsync_folder(staged.parent)

    def read_slot(self, digest: str) -> bytes:
        """Return the bytes of a slot.

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
        """Return the model that enrolment installed. Raises CorruptError when there is none."""
        path = self.path / "factory.json"
        return named(_read(path, FACTORY), path)

    def write_factory(self, slot: SlotRef) -> None:
        """Write the factory model once, at enrolment."""
        write_document(self.path / "factory.json", FACTORY, slot)

    def read_active(self) -> ActiveState:
        """Return what has the role. Raises CorruptError: damaged, or missing in a role with a factory model."""
        path = self.file("active.json")
        if not self.has_factory and not path.exists():
            return ActiveState(NO_MODEL)
        state: ActiveState = self._read_united("active.json")
        if self.has_factory:
            named(state.active, path)
        return state

    def write_active(self, state: ActiveState) -> None:
        """Replace `active.json`, atomically and durably (perceive only)."""
        self._write("active.json", ACTIVE, state)

    def keep_damaged(self) -> None:
        """Set a damaged `active.json` aside for a person."""
        path = self.file("active.json")
        if path.exists():
            syscalls.rename(path, path.with_name("active.json.damaged"))

    def read_candidate(self) -> Candidate | None:
        """Return the candidate, or None. Raises CorruptError."""
        path = self.file("candidate.json")
        if not path.exists():
            return None
        candidate = _read(path, CANDIDATE)
        named(candidate.slot, path)
        return candidate

    def write_candidate(self, candidate: Candidate | None) -> None:
        """Replace `candidate.json` (deliver only); None removes it."""
        if candidate is not None:
            self._write("candidate.json", CANDIDATE, candidate)
            return
        while (path := self.file("candidate.json")).exists():
            syscalls.unlink(path)

    def read_fetch(self) -> FetchState:
        """Return deliver's knowledge; empty before its first write. Raises CorruptError."""
        if not self.file("fetch.json").exists():
            return FetchState()
        state: FetchState = self._read_united("fetch.json")
        return state

    def write_fetch(self, state: FetchState) -> None:
        """Replace `fetch.json`, atomically and durably (deliver only)."""
        self._write("fetch.json", FETCH, state)

    def _read_united(self, name: str) -> Any:
        """Return the document of a name; of two files, the older release's united with what the other one knows."""
        kind, unite = UNITED[name]
        path = self.file(name)
        document = _read(path, kind)
        if path != self.new_file(name) and self.new_file(name).exists():
            with suppress(CorruptError):
                return unite(_read(self.new_file(name), kind), document)
        return document

    def _write(self, name: str, kind: DocumentType[Any], document: object) -> None:
        path = self.file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_document(path, kind, document)

    def remove_unreferenced(self, clock: Clock, wait_s: float = 0.0) -> list[str]:
        """Unlink every slot that no file names. Returns their digests. Raises RetryLaterError while perceive swaps."""
        with self.lock(clock, wait_s):
            keep = self._referenced()
            removed = []
            for path in sorted((self.path / "slots").glob("*")):
                if path.suffix == _GONE:
                    shutil.rmtree(path, ignore_errors=True)
                elif path.suffix not in ("", ".onnx") or path.stem in keep:
                    continue
                else:
                    _remove_slot(path)
                    removed.append(path.stem)
            return removed

    def remove_damaged(self, digest: str) -> None:
        """Remove a slot that cannot be used, so that deliver fetches it again. Call it under the lock. Raises OSError."""
        path = self.find(digest)
        if path is not None:
            _remove_slot(path)

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


def was_loading(slots: SlotFolder) -> bool:
    """Return whether perceive ended while it loaded a candidate of the role."""
    try:
        return slots.read_active().loading is not None
    except CorruptError:
        return False


def verified_bundle(
    folder: Path, digest: str, on_progress: Callable[[], None] = lambda: None
) -> VerifiedModel:
    """Return the model in the folder of a slot. Raises as `SlotFolder.verified`."""
    from modelkit.bundle import Bundle

    path = folder / BUNDLE_LIST
    files = _read(path, FILES).files
    if not files or bundle_digest(files) != digest:
        raise CorruptError(f"lists other files than those of {digest}", path=path)
    try:
        return Bundle(folder, files).verified(on_progress=on_progress)
    except OSError as error:
        raise CorruptError(f"model slot cannot be read: {error.strerror}", path=folder) from error
    except RejectedError as error:
        if error.reason in (RefuseReason.WRONG_HASH, RefuseReason.BAD_BUNDLE):
            raise CorruptError(f"model slot: {error}", path=folder) from error
        raise


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
    if folder.file("active.json").exists():
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


def _remove_slot(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        gone = path.with_suffix(_GONE)
        syscalls.rename(path, gone)  # never half a bundle under its name
        shutil.rmtree(gone, ignore_errors=True)
    else:
        syscalls.unlink(path)


def is_shortage(error: BaseException | None) -> bool:
    """Return whether a lack of file descriptors or memory is behind the error: what was to be read may be sound."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            return True
        error = error.__cause__
    return False


def _read(path: Path, kind: DocumentType[T]) -> T:
    try:
        return read_document(path, kind)
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}", path=path) from error
