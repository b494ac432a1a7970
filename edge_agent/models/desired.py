"""What the signed plans want of this vehicle. Pure: the same function decides on a vehicle and in a simulated
fleet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from edge_agent.models.slots import SlotRef
from edge_agent.models.trust import SavedTrust, TargetInfo, parse_index
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import Vehicle
from foundation.clock import Clock
from foundation.errors import RejectedError, RetryLaterError, UntrustedError
from schemas.documents import HALTED, Release, RolloutPlan

ROLLOUTS_KEY = "plans"
MODELS_KEY = "releases"
_Document = TypeVar("_Document", Release, RolloutPlan)


@dataclass(frozen=True, slots=True)
class Intent:
    """`release_id` is what should serve (None: nothing says so). `withdrawn` must not serve: their newest
    plan is halted.
    """

    release_id: str | None
    withdrawn: frozenset[str]


def desired(plans: Sequence[RolloutPlan], vehicle: Vehicle) -> Intent:
    """The newest plan that lets this vehicle in decides; a halted one lets nobody in, so the one before it
    does.

    Args:
        plans: oldest first, as in the index.
    """
    newest_state = {plan.release_id: plan.state for plan in plans}
    withdrawn = frozenset(release for release, state in newest_state.items() if state == HALTED)
    for plan in reversed(plans):
        if plan.state == HALTED or plan.release_id in withdrawn:
            continue
        if plan.wave_of(vehicle.vehicle_id, vehicle.tags) is not None:
            return Intent(plan.release_id, withdrawn)
    return Intent(None, withdrawn)


def plans_of(index: bytes | None) -> list[RolloutPlan]:
    """The plans of a verified `rollouts/index.json`, oldest first. Raises UntrustedError when it is
    malformed.
    """
    return [_read(row, RolloutPlan) for row in ([] if index is None else parse_index(index, ROLLOUTS_KEY))]


def releases_of(index: bytes | None) -> dict[str, Release]:
    """The releases of a verified `models/index.json` by id. Raises UntrustedError when it is malformed."""
    rows = [] if index is None else parse_index(index, MODELS_KEY)
    return {release.release_id: release for release in (_read(row, Release) for row in rows)}


def check_release(release: Release, info: TargetInfo | None) -> TargetInfo:
    """The role's own word on the model file, which must be what the release says.

    Raises:
        UntrustedError: not listed, or with another digest or length.
    """
    if info is None:
        raise UntrustedError(
            f"release {release.release_id} names {release.model_target}, which the role does not list"
        )
    if info.sha256 != release.model_digest or info.length_bytes != release.model_bytes:
        raise UntrustedError(
            f"release {release.release_id} says {release.model_bytes} bytes, sha256 {release.model_digest}; "
            f"the role says {info.length_bytes} bytes with {info.sha256}"
        )
    return info


def authorise(slot: SlotRef, trust_folder: TrustFolder, vehicle: Vehicle, clock: Clock) -> None:
    """Signed, fresh, running, for this vehicle: all of it verified again from disk, without a network.

    Raises:
        UntrustedError: a signature or an expiry does not hold, or no signed release is this slot.
        RetryLaterError: the plans want something else, or the saved documents are between two states.
    """
    trust = SavedTrust.load(trust_folder, clock)
    intent = desired(plans_of(trust.index("rollouts")), vehicle)
    if intent.release_id != slot.release_id:
        raise RetryLaterError(f"the plans want {intent.release_id}, the candidate is {slot.release_id}")
    release = releases_of(trust.index("models")).get(slot.release_id)
    if release is None or release.model_digest != slot.digest:
        raise UntrustedError(f"no signed release {slot.release_id} with model {slot.digest}")
    check_release(release, trust.target("models", target_name(release)))


def target_name(release: Release) -> str:
    """The flat name of the model's target below `models/`."""
    return release.model_target.removeprefix("models/")


def _read(row: object, kind: type[_Document]) -> _Document:
    try:
        return kind.from_json(json.dumps(row))
    except RejectedError as error:
        raise UntrustedError(f"a signed {kind.__name__} is malformed: {error}") from error
