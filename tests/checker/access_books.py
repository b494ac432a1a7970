"""What must be true of a vehicle that the broker refuses: nothing of it arrives, and it says so.

Pure: the vehicle's ledger and status as exported, and the identities in the broker's log.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tests.checker.told import Account, Identity


def refused_violations(
    account: Account, in_log: Collection[Identity], states: Sequence[str], *, is_shut_out_from_the_start: bool
) -> list[str]:
    """`states`: the delivery states that the agent told of itself, in order."""
    found = []
    if "refused" not in states:
        found.append(f"refusal_not_told: the agent said {list(states)}")
    arrived = {identity for identity in in_log if identity.vehicle == account.vehicle}
    delivered = {
        Identity(account.vehicle, epoch.epoch, seq)
        for epoch in account.epochs.values()
        for seq in epoch.numbers("delivered")
    }
    if missing := delivered - arrived:
        found.append(f"delivered_and_nowhere: {len(missing)}, {sorted(missing)[:3]}")
    if is_shut_out_from_the_start:
        if arrived:
            found.append(f"refused_and_written: {len(arrived)} records of {account.vehicle} are in the log")
        if account.delivered or account.pending != account.accepted or not account.accepted:
            found.append(
                f"refused_and_counted: {account.accepted} accepted, {account.delivered} delivered, {account.pending} pending"
            )
    return found


def forged_violations(outcomes: Sequence[tuple[str | None, str]], forged: int) -> list[str]:
    """`outcomes`: vehicle and outcome of the lake's rows that name the vehicle in whose name another wrote."""
    rejected = [outcome for _, outcome in outcomes if outcome == "rejected"]
    if len(outcomes) == len(rejected) == forged:
        return []
    return [f"forged_and_not_rejected: {len(rejected)} of {forged} rejected, rows {list(outcomes)[:5]}"]
