"""Decide what the signed plans require of this vehicle. Pure: the same on a vehicle and in a simulated fleet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent.models.slot_documents import SlotRef
from edge_agent.models.trust import SavedTrust, TargetInfo, parse_index
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import Vehicle
from foundation.clock import Clock
from foundation.documents import read_rows
from foundation.errors import RetryLaterError, UntrustedError
from schemas.bundle import BundleFile
from schemas.documents import HALTED, RELEASE, ROLLOUT_PLAN, Release, RolloutPlan
from schemas.downlink import PLANS_KEY, RELEASES_KEY
from schemas.roles import SERVING


@dataclass(frozen=True, slots=True)
class Intent:
    """`release_id` is the release that should have the role (None: no plan says so), by `plan`.

    Those in `withdrawn` must not: their newest plan is halted.
    """

    release_id: str | None
    withdrawn: frozenset[str]
    plan: RolloutPlan | None = None


@dataclass(frozen=True, slots=True)
class UnreadablePlan:
    """A plan that this version cannot read, of a newer form or damaged. It admits nobody; its halt is obeyed."""

    reason: str
    halted_release_id: str = ""
    """The release that it halts, as far as can be read; empty when it halts none."""


def desired(plans: Sequence[RolloutPlan | UnreadablePlan], vehicle: Vehicle, role: str = SERVING) -> Intent:
    """Return the intent for this vehicle: the newest plan of the role that admits it; a halted one admits nobody.

    Args:
        plans: of any role, oldest first, as in the index. The halt of one that cannot be read counts for every role.
    """
    newest_state: dict[str, str] = {}
    of_role = []
    for plan in plans:
        if isinstance(plan, UnreadablePlan):
            newest_state[plan.halted_release_id] = HALTED
        elif plan.role == role:
            newest_state[plan.release_id] = plan.state
            of_role.append(plan)
    withdrawn = frozenset(release for release, state in newest_state.items() if release and state == HALTED)
    for plan in reversed(of_role):
        if plan.state == HALTED or plan.release_id in withdrawn:
            continue
        if plan.wave_of(vehicle.vehicle_id, vehicle.tags) is not None:
            return Intent(plan.release_id, withdrawn, plan)
    return Intent(None, withdrawn)


def plans_of(index: bytes | None) -> list[RolloutPlan | UnreadablePlan]:
    """Return the plans of a verified index of `rollouts`, oldest first; an unreadable one affects no other.

    Raises:
        UntrustedError: it is no such list.
    """
    return [_plan(row) for row in _rows(index, PLANS_KEY)]


def releases_of(index: bytes | None) -> dict[str, Release]:
    """Return the releases of a verified index of `models` by id; an unreadable one affects no other.

    Raises:
        UntrustedError: it is no such list.
    """
    rows = read_rows(
        _rows(index, RELEASES_KEY), lambda row: RELEASE.of(row, family=UntrustedError), "releases"
    )
    return {release.release_id: release for release in rows.read}


def check_plan(plan: RolloutPlan | None, release: Release) -> None:
    """Check that plan and release agree on role and model, so that two keys vouch for each model.

    Raises:
        UntrustedError: the plan names another model, or another role.
    """
    if plan is None or (plan.model_digest is None and plan.role == release.role):
        return  # a plan of version 1, in the list of a cloud of the first release: see `_plan`
    said = (plan.role, plan.model_digest, plan.model_bytes)
    found = (release.role, release.model_digest, release.model_bytes)
    if said != found:
        raise UntrustedError(
            f"plan {plan.plan_id} lets out {said[2]} bytes, sha256 {said[1]}, for {said[0]}; release "
            f"{release.release_id} is {found[2]} bytes, sha256 {found[1]}, for {found[0]}"
        )


def check_release(
    release: Release, target: Callable[[str], TargetInfo | None]
) -> tuple[tuple[BundleFile, TargetInfo], ...]:
    """Return what the role `models` signed about each file of the model, after comparing it with the release.

    Args:
        target: what the role `models` says of a target by its flat name.

    Raises:
        UntrustedError: not listed, or with another digest or length.
    """
    found = []
    for file in release.bundle:
        name = release.target_of(file)
        info = target(name.removeprefix("models/"))
        if info is None:
            raise UntrustedError(f"release {release.release_id} names {name}, which the role does not list")
        if info.sha256 != file.sha256 or info.length_bytes != file.length_bytes:
            raise UntrustedError(
                f"release {release.release_id} says {file.length_bytes} bytes, sha256 {file.sha256} of {file.path}; "
                f"the role says {info.length_bytes} bytes with {info.sha256}"
            )
        found.append((file, info))
    return tuple(found)


def authorise(
    slot: SlotRef, trust_folder: TrustFolder, vehicle: Vehicle, clock: Clock, role: str = SERVING
) -> None:
    """Check from disk, without a network, that a slot is signed, fresh, in a running plan and for this vehicle.

    Raises:
        UntrustedError: a signature or an expiry does not hold, or no signed release is this slot.
        RetryLaterError: the plans want something else, or the saved documents are between two states.
    """
    trust = SavedTrust.load(trust_folder, clock)
    intent = desired(plans_of(trust.index("rollouts")), vehicle, role)
    if intent.release_id != slot.release_id:
        raise RetryLaterError(f"the plans want {intent.release_id}, the candidate is {slot.release_id}")
    release = releases_of(trust.index("models")).get(slot.release_id)
    if release is None or release.model_digest != slot.digest:
        raise UntrustedError(f"no signed release {slot.release_id} with model {slot.digest}")
    check_plan(intent.plan, release)
    check_release(release, lambda name: trust.target("models", name))


def _plan(row: object) -> RolloutPlan | UnreadablePlan:
    try:
        return _naming_a_model(ROLLOUT_PLAN.of(row, family=UntrustedError), row)
    except UntrustedError as error:
        release_id = row.get("release_id") if isinstance(row, dict) and row.get("state") == HALTED else None
        return UnreadablePlan(str(error), release_id if isinstance(release_id, str) else "")


def _naming_a_model(plan: RolloutPlan, row: object) -> RolloutPlan:
    """Return the plan if it names its model; one of version 1 cannot."""
    if plan.model_digest is None and isinstance(row, dict) and row.get("format") != 1:
        raise UntrustedError(f"plan {plan.plan_id} names no model, so another could take its place")
    return plan


def _rows(index: bytes | None, key: str) -> list[object]:
    return [] if index is None else parse_index(index, key)
