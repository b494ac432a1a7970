"""Whoever steals the key of one role, and has the online keys, gives no vehicle what the other roles did not approve.

A few seeds per role here; the fault `key-thieves` of the campaign plays 1,000 of each.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.edge_agent.models.thief_rig import ROLES, World, violations

SEEDS = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("role", ROLES)
def test_the_thief_of_one_key_activates_nothing_that_the_others_did_not_approve(
    world: World, tmp_path: Path, role: str
) -> None:
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        ended = world.story(role, seed, folder)
        assert violations(world, role, ended) == []


def test_the_stories_reach_what_a_thief_may_do(world: World, tmp_path: Path) -> None:
    """Stories in which every document were broken would show nothing: the thief of rollouts lets out approved models."""
    found: Counter[str] = Counter()
    names = {digest: name for name, digest in world.digests.items()}
    for seed in range(SEEDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found.update(names[digest] for digest in world.story("rollouts", seed, folder).activated.values())
    assert {"r2", "r3", "r4"} <= set(found), found
