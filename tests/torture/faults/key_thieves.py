"""Thieves of one role's key, with the online keys: seeded stories against a vehicle that asks their repository."""

from __future__ import annotations

import shutil

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally


def _steal(batch: Batch) -> Tally:
    from tests.edge_agent.models.thief_rig import ROLES, World, violations

    tally = Tally()
    made = batch.folder / "world"
    made.mkdir()
    world = World(made)
    for number in batch.in_time():
        role = ROLES[number % len(ROLES)]
        folder = batch.folder / str(number)
        folder.mkdir()
        ended = world.story(role, batch.seed * 1_000_000 + number, folder)
        tally.judge(violations(world, role, ended), f"story {number}")
        tally.count(f"stories_of_{role}")
        tally.count("approved_models_activated", len(ended.activated))
        shutil.rmtree(folder)
    return tally


FAULTS = (
    Fault(
        "key-thieves",
        12,
        ("G6",),
        "A thief of the key of models, rollouts, targets, snapshot, timestamp, or of one of two root keys, who also "
        "has the keys of snapshot and timestamp, changes, replays and signs documents at random: the vehicle activates "
        "nothing that the other roles did not approve.",
        "one story",
        full=6000,
        turn=36,
        full_turn=600,
        run=_steal,
        real="real keys, signatures and metadata, the agent's own refresh, fetch and authorisation; the repository in memory, "
        "nothing fsynced; trials answered at once",
        broken=(
            BrokenBuild(
                "the key of targets may delegate to any key",
                "edge_agent/models/trust.py",
                "    if named is None:\n",
                "    if named is None or True:\n",
                tries=200,
            ),
            BrokenBuild(
                "a plan's model is not compared with the release's",
                "edge_agent/models/desired.py",
                "    if said != found:\n",
                "    if said != found and False:\n",
                tries=200,
            ),
        ),
    ),
)
