"""Which model the fleet is served in each role: a row per completed rollout, appended; the newest row of a role counts.

`registry/served.jsonl`. Releases before roles kept one document, `registry/serving.json`, for the role serving; it is read
as a row before all others until `fleetloop migrate` has moved it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from foundation import syscalls
from foundation.clock import Clock, SystemClock
from foundation.documents import DocumentType, Meta, UnreadableRow, build, plain
from foundation.errors import CorruptError, MisconfiguredError
from foundation.files import FileLock
from foundation.row_file import RowFile
from schemas.bundle import Sha256Hex
from schemas.documents import Name, RoleName
from schemas.roles import SERVING
from workspace.layout import Workspace
from workspace.model_name import ModelName, read_model_name


@dataclass(frozen=True, slots=True)
class ServedModel:
    """From `time_ns` (the fleet's clock) on the fleet is served this model in `role`, by rollout `plan_id` ("": none)."""

    name: Name
    digest: Sha256Hex
    role: RoleName = SERVING
    release_id: str = ""
    plan_id: str = ""
    time_ns: Annotated[int, Meta(ge=0)] = 0


SERVED_ROW: Final = DocumentType.first("served model", ServedModel)


def served_models(place: Workspace) -> dict[str, ServedModel]:
    """Role -> the model that the fleet is served in it; a role of which nothing is known is absent.

    Raises:
        CorruptError: `serving.json` of an earlier release is damaged.
    """
    return {row.role: row for row in _rows(place, _file(place))}


def unreadable_rows(place: Workspace) -> Sequence[UnreadableRow]:
    """Return unreadable rows, each with the reason; they stay in the file and affect no other."""
    file = _file(place)
    file.news()
    return file.unreadable


def serving_name(place: Workspace) -> tuple[str, str]:
    """Return name and digest of the registered model that the fleet has in the role serving.

    Raises:
        MisconfiguredError: no model serves yet, or its name is none of a registered model.
    """
    found = served_models(place).get(SERVING)
    if found is None:
        raise MisconfiguredError(
            f"no model serves yet ({place.served_path} has no row of the role serving); "
            "train a first one with `fleetloop train --from-scratch`"
        )
    named = build(
        ModelName, {"name": found.name, "digest": found.digest}, "serving", family=MisconfiguredError
    )
    return named.name, named.digest


def serve(place: Workspace, model: ServedModel, clock: Clock | None = None) -> bool:
    """From now on the fleet is served this model; vehicles are enrolled with that of the role serving.

    A rollout counts once, however often it is reported. Returns whether a row was written.

    Raises:
        RetryLaterError: another writer holds the file, or the disk refuses the row.
    """
    clock = clock or SystemClock()
    with _writing(place, clock):
        file = _file(place)
        rows = _rows(place, file)
        if model.plan_id and any(row.plan_id == model.plan_id for row in rows):
            return False
        now = [row for row in rows if row.role == model.role][-1:]
        if not model.plan_id and now and (now[0].name, now[0].digest) == (model.name, model.digest):
            return False
        file.append([plain(model) | {"time_ns": clock.now_ns()}])
    return True


def move_old_record(place: Workspace) -> None:
    """Bring `serving.json` of a release before roles to the rows. Killed anywhere, the next call goes on.

    Raises:
        RetryLaterError: another writer holds the file, or the disk refuses the row.
    """
    with _writing(place, SystemClock()):
        old = _old(place)
        if old is None:
            return
        file = _file(place)
        if SERVING not in {row.role for row in file.news()[1]}:
            file.append([plain(old)])
        syscalls.unlink(place.old_serving_path)


def _writing(place: Workspace, clock: Clock) -> FileLock:
    place.private_path.mkdir(parents=True, exist_ok=True)
    place.registry_path.mkdir(parents=True, exist_ok=True)
    return FileLock(place.private_path / "served.lock", wait_s=place.settings.lock_wait_s, clock=clock)


def _file(place: Workspace) -> RowFile[ServedModel]:
    return RowFile(place.served_path, partial(_read, place.served_path), is_strict=False)


def _read(path: Path, row: Any, name: str) -> ServedModel:
    return SERVED_ROW.of(row, family=lambda told: CorruptError(f"{name}: {told}", path=path))


def _rows(place: Workspace, file: RowFile[ServedModel]) -> Sequence[ServedModel]:
    old = _old(place)
    return [*([] if old is None else [old]), *file.news()[1]]


def _old(place: Workspace) -> ServedModel | None:
    said = read_model_name(place.old_serving_path)
    return None if said is None else ServedModel(said.name, said.digest)
