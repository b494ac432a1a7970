"""The attack stories of the downlink, each by name; what the vehicle's files say after each is judged apart from it."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

STORIES: dict[str, tuple[str, ...]] = {
    "rollback": (
        "time.test_rollback_to_an_older_repository_is_refused",
        "time.test_rollback_is_refused_even_with_the_stolen_timestamp_key",
        "time.test_rollback_protection_survives_power_loss_in_the_middle_of_a_refresh",
    ),
    "freeze": (
        "time.test_freeze_is_noticed_when_the_word_expires",
        "time.test_freeze_is_noticed_after_many_boots_in_1970",
        "time.test_the_life_of_a_word_can_be_set",
    ),
    "clock set back": (
        "time.test_a_clock_set_back_revives_no_expired_word",
        "time.test_freeze_is_noticed_with_the_clock_set_to_1970",
        "time.test_the_saved_timestamp_stands_for_a_lost_floor",
    ),
    "clock ahead": ("time.test_a_clock_ten_years_ahead_refuses_but_does_no_lasting_harm",),
    "fast-forward": (
        "time.test_fast_forward_is_undone_by_rotating_the_stolen_keys",
        "time.test_a_floor_raised_with_a_stolen_key_falls_when_the_key_is_replaced",
    ),
    "mix-and-match": (
        "time.test_mix_and_match_of_two_states_is_refused",
        "time.test_an_index_of_another_time_is_refused",
    ),
    "endless data": (
        "downloads.test_endless_metadata_is_cut_off",
        "downloads.test_an_endless_model_is_cut_off_at_its_signed_length",
    ),
    "slow retrieval": (
        "downloads.test_slow_retrieval_of_metadata_ends_at_its_deadline",
        "downloads.test_slow_retrieval_of_a_model_is_named_and_delays_nothing_else",
    ),
    "other bytes": (
        "downloads.test_a_truncated_model_is_never_taken",
        "downloads.test_other_bytes_of_the_right_length_are_thrown_away",
        "downloads.test_a_resumed_download_on_a_spoiled_beginning_is_thrown_away_and_begun_again",
    ),
    "wrong key": (
        "wrong_keys.test_a_model_signed_by_a_wrong_key_is_refused",
        "wrong_keys.test_a_vehicle_without_a_root_trusts_nothing",
        "wrong_keys.test_a_rotated_key_is_refused_from_then_on",
    ),
    "one signature under the threshold": ("wrong_keys.test_one_signature_under_the_threshold_makes_no_root",),
    "a key of the wrong role": (
        "wrong_keys.test_a_model_signed_by_the_key_of_the_wrong_role_never_loads",
        "wrong_keys.test_a_model_listed_by_the_role_of_plans_never_loads",
        "wrong_keys.test_a_model_listed_by_the_top_level_role_is_refused",
        "wrong_keys.test_the_next_publication_does_not_sign_what_a_wrong_key_published",
    ),
    "a chain of 257 roots": (
        "roots.test_a_chain_of_257_roots_is_followed",
        "roots.test_a_root_that_skips_a_version_is_refused",
    ),
}
"""The stories by the name of the attack: module of tests/edge_agent/models/test_tuf_* and function."""


def _tellings() -> Iterator[tuple[str, str, Callable[..., None], dict[str, Any]]]:
    """(attack, name, function, parameters) of every story, once for each of its parameters."""
    from importlib import import_module

    for attack, names in STORIES.items():
        for name in names:
            module, _, function = name.partition(".")
            told = getattr(import_module(f"tests.edge_agent.models.test_tuf_{module}"), function)
            marks = [mark for mark in getattr(told, "pytestmark", []) if mark.name == "parametrize"]
            if not marks:
                yield attack, function, told, {}
            for mark in marks:
                for value in mark.args[1]:
                    yield attack, f"{function}[{value}]", told, {mark.args[0]: value}


def _tell(folder: Path, story: Callable[..., None], given: dict[str, Any]) -> list[str]:
    """Plays one story on a vehicle of its own; then the vehicle's files are looked at by the checker."""
    import pytest

    from tests.checker.model_books import folder_violations
    from tests.edge_agent.models.model_bench import Bench
    from tests.edge_agent.models.tuf_rig import Between

    bench = Bench(folder)
    with pytest.MonkeyPatch.context() as patch:
        fixtures = {
            "bench": bench,
            "between": Between(bench),
            "tmp_path": folder / "more",
            "monkeypatch": patch,
            **given,
        }
        (folder / "more").mkdir()
        wanted = inspect.signature(story).parameters
        wrong = []
        try:
            story(**{name: fixtures[name] for name in wanted})
        except (Exception, pytest.fail.Exception):
            wrong.append(traceback.format_exc(limit=-2)[-600:])
    honest = {bench.slots.read_factory().digest, *(each.model_digest for each in bench.releases)}
    return wrong + folder_violations(bench.state, honest)


def _attacks(batch: Batch) -> Tally:
    tally = Tally()
    tellings = list(_tellings())
    for number in batch.in_time():
        attack, name, story, given = tellings[number % len(tellings)]
        folder = batch.folder / str(number)
        folder.mkdir()
        tally.judge(_tell(folder, story, given), f"{attack}: {name}")
        tally.count(attack.replace(" ", "_").replace("-", "_"))
    return tally


FAULTS = (
    Fault(
        "tuf-attacks",
        12,
        ("G6",),
        f"Each attack on the signed downlink, by name ({', '.join(STORIES)}), in "
        "one to seven stories: the vehicle refuses, says why, and names no model as serving or next that the fleet did not sign.",
        "one story",
        full=70,
        turn=8,
        full_turn=35,
        run=_attacks,
        real="real keys, signatures, metadata, files and the agent's own refresh and fetch; the attacker changes the repository "
        "or stands behind the transport; time by hand; trials answered at once",
        broken=(
            BrokenBuild(
                "signatures on fetched metadata are not checked",
                "edge_agent/models/trust_folder.py",
                "_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)\n",
                "_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)\n"
                "from tuf.api.metadata import Root, Targets\n\n"
                "Root.verify_delegate = Targets.verify_delegate = lambda *_: None\n",
                tries=33,
            ),
            BrokenBuild(
                "the wall clock alone says what time it is",
                "edge_agent/models/trust_folder.py",
                "        return max(clock.now_ns(), floor_ns)\n",
                "        return clock.now_ns()\n",
                tries=12,
            ),
            BrokenBuild(
                "the top-level role may vouch for a model",
                "edge_agent/models/trust.py",
                "    if path in trusted.targets.targets:\n",
                "    if path in trusted.targets.targets and False:\n",
                tries=33,
            ),
            BrokenBuild(
                "what came of endless data stays on the disk",
                "edge_agent/models/http.py",
                "                    path.unlink()\n                    raise DownloadError(",
                "                    raise DownloadError(",
                tries=35,
            ),
        ),
    ),
)
