"""The checker finds nothing in a true world, and names each single lie told in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checker.broker_log import LogRecord
from tests.checker.lake_files import Row
from tests.checker.told import Identity, account
from tests.checker.true_world import EPOCH, TOPIC_ID, World, digest, ledger, named, row_of, true_world
from tests.checker.verdict import RULES

PRODUCT = {
    "schemas", "foundation", "modelkit", "connectors", "devservers", "workspace", "services", "edge_agent",
    "pipelines", "training", "rollout",
    "fleetloop",
}  # fmt: skip


def test_a_true_world_is_not_accused() -> None:
    verdict = true_world().judged()
    assert verdict["violations"] == {}
    assert verdict["held"] is True
    assert verdict["counts"] == {
        "offered": 8,
        "receipts": 7,
        "log_records": 6,
        "rows": {"landed": 4, "rejected": 1, "resent": 1},
        "landed_identities": 4,
    }


def change_row(world: World, index: int, **changes: Any) -> None:
    world.rows[index] = replace(world.rows[index], **changes)


def change_ledger(world: World, **ranges: Any) -> None:
    base: dict[str, Any] = {
        "delivered": [[0, 4]], "pending": [[4, 5]], "evicted": {"quota": [[5, 6]]}, "in_doubt": [[6, 7]],
        "never_accepted": [[7, 8]],
    }  # fmt: skip
    world.accounts["car-1"] = account("car-1", ledger(**{**base, **ranges}))


def drop_record(world: World, index: int) -> None:
    """A record that neither the log nor the lake has, as if its offset had never been given."""
    record = world.records.pop(index)
    world.rows = [
        row for row in world.rows if (row.partition, row.offset) != (record.partition, record.offset)
    ]


def resend_lands(world: World) -> None:
    world.rows[4] = row_of(world.records[3])


def add_replay(world: World, **changes: Any) -> None:
    row = row_of(world.records[5])
    world.rows.append(replace(row, origin="replay", supersedes=f"{TOPIC_ID}/0/5", **changes))


LIES: dict[str, tuple[Callable[[World], Any], set[str]]] = {
    "an offset without a row": (lambda w: w.rows.pop(5), {"offset_has_no_row"}),
    "an accepted record's offset without a row": (
        lambda w: w.rows.pop(0),
        {"offset_has_no_row", "accepted_and_lost"},
    ),
    "an offset with two rows": (lambda w: w.rows.append(w.rows[5]), {"offset_has_many_rows"}),
    "a row for no offset": (
        lambda w: w.rows.append(replace(w.rows[5], offset=6, offset_end=7)),
        {"row_has_no_offset"},
    ),
    "a row in a partition that is not there": (
        lambda w: w.rows.append(replace(w.rows[5], partition=9)),
        {"row_has_no_offset"},
    ),
    "a present offset counted as lost": (
        lambda w: w.rows.append(Row(TOPIC_ID, 0, 1, None, None, None, origin="loss", offset_end=3)),
        {"present_offset_called_lost"},
    ),
    "a present offset called a gap instead of its row": (
        lambda w: w.rows.__setitem__(5, Row(TOPIC_ID, 0, 5, None, None, None, origin="gap", offset_end=6)),
        {"present_offset_called_lost", "offset_has_no_row"},
    ),
    "a wrong value hash": (
        lambda w: change_row(w, 1, value_sha256=digest("other")),
        {"value_hash_differs", "landed_other_bytes"},
    ),
    "a wrong identity": (
        lambda w: change_row(w, 1, identity=named(7)),
        {"identity_differs", "accepted_and_lost", "landed_and_never_accepted"},
    ),
    "no identity at all": (
        lambda w: change_row(w, 1, identity=None),
        {"identity_differs", "landed_without_identity", "accepted_and_lost"},
    ),
    "a payload other than its hash": (
        lambda w: change_row(w, 1, payload_digest=digest("other")),
        {"payload_hash_differs"},
    ),
    "a payload that is missing": (lambda w: change_row(w, 1, payload_digest=None), {"payload_hash_differs"}),
    "another payload with its own right hash": (
        lambda w: change_row(w, 1, payload_digest=digest("payload 0"), payload_sha256=digest("payload 0")),
        {"payload_hash_differs"},
    ),
    "a dead letter without its bytes": (
        lambda w: change_row(w, 5, raw_value_digest=None),
        {"dead_letter_lost_bytes"},
    ),
    "a dead letter with other bytes": (
        lambda w: change_row(w, 5, raw_value_digest=digest("x")),
        {"dead_letter_lost_bytes"},
    ),
    "no resend marking": (resend_lands, {"landed_twice"}),
    "a resend that points nowhere": (lambda w: change_row(w, 4, resend_of=None), {"resend_points_nowhere"}),
    "a resend that points at another record": (
        lambda w: change_row(w, 4, resend_of=f"{TOPIC_ID}/0/1"),
        {"resend_points_nowhere"},
    ),
    "a resend that points at itself": (
        lambda w: change_row(w, 4, resend_of=f"{TOPIC_ID}/0/3"),
        {"resend_points_nowhere"},
    ),
    "a conflict called a resend": (
        lambda w: (
            w.records.__setitem__(3, replace(w.records[3], value_sha256=digest("other"))),
            change_row(w, 4, value_sha256=digest("other")),
        ),
        {"resend_points_nowhere"},
    ),
    "a replay that supersedes nothing": (
        lambda w: (add_replay(w), change_row(w, -1, supersedes=f"{TOPIC_ID}/0/1")),
        {"replay_supersedes_nothing"},
    ),
    "a replay of what landed already": (
        lambda w: (
            w.records.__setitem__(5, replace(w.records[5], identity=named(0))),
            add_replay(w),
        ),
        {"landed_twice"},
    ),
    "a replay that landed twice": (lambda w: (add_replay(w), add_replay(w)), {"landed_twice"}),
    "an accepted record that is nowhere": (
        lambda w: w.receipts.append((named(9), digest("value 9"))),
        {"accepted_and_lost", "accepted_and_unknown"},
    ),
    "an accepted record of an epoch that the ledger forgot": (
        lambda w: w.receipts.append((Identity("car-1", "f" * 16, 0), digest("x"))),
        {"accepted_and_lost", "accepted_and_unknown"},
    ),
    "an accepted record of a vehicle without a ledger": (
        lambda w: w.receipts.append((named(0, "car-9"), digest("x"))),
        {"accepted_and_lost"},
    ),
    "a delivered record that is nowhere": (
        lambda w: drop_record(w, 4),
        {"accepted_and_lost", "delivered_and_nowhere"},
    ),
    "a record accepted with other bytes than landed": (
        lambda w: w.receipts.__setitem__(1, (named(1), digest("other"))),
        {"landed_other_bytes"},
    ),
    "one number accepted with two contents": (
        lambda w: w.receipts.append((named(1), digest("other"))),
        {"accepted_twice"},
    ),
    "a receipt for what the ledger says was never accepted": (
        lambda w: w.receipts.append((named(7), digest("value 7"))),
        {"accepted_and_lost", "accepted_and_unknown"},
    ),
    "a pending record that the ledger forgot": (
        lambda w: change_ledger(w, pending=[]),
        {"accepted_and_lost"},
    ),
    "an evicted record that the ledger forgot": (
        lambda w: change_ledger(w, evicted={}),
        {"accepted_and_lost"},
    ),
    "a landed record that was never accepted": (
        lambda w: change_ledger(w, delivered=[[1, 4]], never_accepted=[[0, 1], [7, 8]]),
        {"landed_and_never_accepted", "accepted_and_unknown"},
    ),
    "a ledger that does not add up": (
        lambda w: w.accounts.update({"car-1": replace(w.accounts["car-1"], accepted=99)}),
        {"ledger_does_not_balance"},
    ),
    "an epoch that does not add up": (
        lambda w: w.accounts["car-1"].epochs.update(  # type: ignore[attr-defined]
            {EPOCH: replace(w.accounts["car-1"].epochs[EPOCH], pending=9)}
        ),
        {"ledger_does_not_balance"},
    ),
    "a payload that nobody offered": (
        lambda w: w.offered.discard(digest("payload 1")) if w.offered else None,
        {"landed_and_never_offered"},
    ),
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_each_lie_is_named(lie: str) -> None:
    tell, rules = LIES[lie]
    world = true_world()
    tell(world)
    assert world.broken() == rules


def test_every_rule_is_broken_by_some_lie() -> None:
    source = ast.parse((Path(__file__).parent / "verdict.py").read_text())
    words = {
        node.args[0].value
        for node in ast.walk(source)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Violation"
        and isinstance(node.args[0], ast.Constant)
    }
    words |= {"accepted_and_unknown", "landed_and_never_accepted"}  # given to _known by its callers
    assert words == set().union(*(rules for _, rules in LIES.values()))
    assert len(RULES) == 6


HARMLESS: dict[str, Callable[[World], Any]] = {
    "a replay that mends a dead letter": add_replay,
    "offsets that retention took after they were read": lambda w: (
        w.bounds.update({0: (2, 6)}),
        w.records.__delitem__(slice(0, 2)),
    ),
    "rows of a topic that was created anew": lambda w: w.rows.append(
        row_of(LogRecord(0, 0, named(0, "car-7"), digest("v"), digest("p")), topic_id="topic-0")
    ),
    "a record that was delivered though its receipt was never printed": lambda w: w.receipts.pop(0),
    "the same receipt read twice": lambda w: w.receipts.append(w.receipts[0]),
    "a pending record whose acknowledgement was lost": lambda w: change_ledger(
        w, delivered=[[0, 3]], pending=[[3, 5]]
    ),
    "a large payload elsewhere": lambda w: (
        w.records.__setitem__(1, replace(w.records[1], payload_sha256=None)),
        change_row(w, 1, payload_uri="s3://x", payload_digest=None),
    ),
    "a conflict that was rejected": lambda w: (
        w.records.__setitem__(3, replace(w.records[3], value_sha256=digest("other"))),
        w.rows.__setitem__(4, row_of(w.records[3], "rejected", identity=named(2))),
    ),
    "nothing said of what was offered": lambda w: setattr(w, "offered", None),
}


@pytest.mark.parametrize("what", sorted(HARMLESS))
def test_what_is_allowed_is_not_accused(what: str) -> None:
    world = true_world()
    HARMLESS[what](world)
    assert world.judged()["violations"] == {}


@pytest.mark.parametrize(("closed", "held"), [(1, True), (0, False)])
def test_numbers_that_a_ledger_only_counts_are_excused_by_count(closed: int, held: bool) -> None:
    """Seq 0 is below detail_from and landed nowhere: fine only when the ledger counts one as gone."""
    world = true_world()
    drop_record(world, 0)
    change_ledger(world, delivered=[[1, 4]], detail_from=1)
    epoch = world.accounts["car-1"].epochs[EPOCH]
    counted = replace(epoch, evicted=epoch.evicted + closed, accepted=epoch.accepted + closed)
    whole = replace(
        world.accounts["car-1"], accepted=counted.accepted, evicted=counted.evicted, epochs={EPOCH: counted}
    )
    world.accounts = {"car-1": whole}
    assert world.broken() == (set() if held else {"accepted_and_lost"})


@given(st.permutations(range(6)), st.permutations(range(6)), st.permutations(range(7)))
def test_the_verdict_does_not_depend_on_any_order(
    records: list[int], rows: list[int], receipts: list[int]
) -> None:
    world, shuffled = true_world(), true_world()
    for each in (world, shuffled):
        resend_lands(each)
    shuffled.records = [shuffled.records[index] for index in records]
    shuffled.rows = [shuffled.rows[index] for index in rows]
    shuffled.receipts = [shuffled.receipts[index] for index in receipts]
    assert shuffled.broken() == world.broken() == {"landed_twice"}


def test_many_violations_are_counted_and_a_few_are_shown() -> None:
    world = true_world()
    world.receipts += [(named(seq), digest("x")) for seq in range(100, 200)]
    lost = world.judged()["violations"]["accepted_and_lost"]
    assert lost["count"] == 100
    assert len(lost["examples"]) == 20


def test_the_checker_imports_nothing_of_the_product() -> None:
    folder = Path(__file__).parent
    files = [path for path in folder.glob("*.py") if not path.name.startswith(("test_", "conftest"))]
    assert len(files) >= 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            roots = {name.partition(".")[0] for name in names}
            own = [name for name in names if name.startswith("tests")]
            assert all(name.startswith("tests.checker.") for name in own), f"{path.name} imports {own}"
            assert not roots & PRODUCT, f"{path.name} imports {roots & PRODUCT}"
            allowed = {
                "tests",
                "kafka",
                "pyarrow",
                "deltalake",
                "fastavro",
                "tuf",
                "yaml",
                *sys.stdlib_module_names,
            }
            assert roots <= allowed, f"{path.name} imports {roots - allowed}"


def test_running_the_checker_loads_nothing_of_the_product() -> None:
    code = (
        "import sys, tests.checker.__main__\n"
        f"product = {sorted(PRODUCT)!r}\n"
        "loaded = {name.partition('.')[0] for name in sys.modules} & set(product)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
