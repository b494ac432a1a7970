"""Damaged files: every record is delivered intact or counted as damaged, and both sides stay up."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from edge_agent.spool.snapshot import read_ledger
from foundation.framing import encode_frame
from schemas.reasons import NotAcceptedReason, ValueClass
from tests.edge_agent.spool.spool_rig import SMALL, Spool, faults, sample, sha, whereabouts

FLIPS = 200


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[tuple[Path, dict[tuple[str, int], str], set[tuple[str, int]]]]:
    """A stopped spool of two epochs and two classes, what it accepted, what of it was acknowledged."""
    with faults(is_syncing=False):
        spool = Spool(tmp_path / "spool")
        for _ in range(2):
            for _ in range(3):
                spool.put(2, ValueClass.LOW)
                spool.put(2, ValueClass.HIGH)
            spool.restart_writer()
        hashes = {(r.identity.epoch, r.identity.seq): sha(r) for r in spool.reader.lease(10_000_000)}
        spool.restart_reader()
        acknowledged = set()
        for record in spool.reader.lease(2_500):
            spool.reader.acknowledge([record.identity])
            acknowledged.add((record.identity.epoch, record.identity.seq))
        spool.writer.close()
        spool.reader.close()
        assert len(hashes) == 24
        assert acknowledged
        yield tmp_path / "spool", hashes, acknowledged


def check(
    folder: Path,
    hashes: dict[tuple[str, int], str],
    acknowledged: set[tuple[str, int]],
    most: int,
    is_ledger_lost: bool = False,
) -> int:
    """Open both sides on the damaged folder, deliver everything; how many records were damaged."""
    spool = Spool(folder)
    drained = {(r.identity.epoch, r.identity.seq): sha(r) for r in spool.drain()}
    ledger = spool.ledger()
    assert ledger.balances(), ledger.to_json()
    places = whereabouts(ledger)
    damaged = {key for key, place in places.items() if place == "evicted:damaged"}
    for key, stated in hashes.items():
        assert drained.get(key, stated) == stated, "a damaged record was delivered"
        assert key in drained or key in acknowledged or key in damaged, f"{key} vanished: {places.get(key)}"
    assert drained.keys() <= hashes.keys(), "a record was invented"
    assert len(damaged) <= most, damaged
    if is_ledger_lost:  # a lost ledger cannot say what became of records whose segment is gone
        assert damaged <= acknowledged
    assert spool.put(1), "the agent is up"
    assert spool.drain()
    spool.close()
    return len(damaged)


@pytest.mark.parametrize("target", ["segments", "ledger.journal", "delivery.journal"])
def test_a_flipped_bit_costs_one_record_at_most(
    target: str, prepared: tuple[Path, dict[tuple[str, int], str], set[tuple[str, int]]], tmp_path: Path
) -> None:
    folder, hashes, acknowledged = prepared
    rng = random.Random(target)
    total = 0
    for flip in range(FLIPS):
        broken = tmp_path / f"broken-{flip}"
        shutil.copytree(folder, broken)
        files = sorted((broken / "segments").iterdir()) if target == "segments" else [broken / target]
        path = rng.choice(files)
        data = bytearray(path.read_bytes())
        bit = rng.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)
        total += check(broken, hashes, acknowledged, most=1 if target == "segments" else 0)
        shutil.rmtree(broken)
    assert (total > FLIPS / 4) == (target == "segments"), "the flips must hit something"


def test_a_segment_cut_anywhere_costs_only_what_was_cut(
    prepared: tuple[Path, dict[tuple[str, int], str], set[tuple[str, int]]], tmp_path: Path
) -> None:
    folder, hashes, acknowledged = prepared
    last = sorted((folder / "segments").iterdir())[-1]
    size_bytes = last.stat().st_size
    for cut in range(0, size_bytes, 37):
        broken = tmp_path / f"cut-{cut}"
        shutil.copytree(folder, broken)
        with (broken / "segments" / last.name).open("r+b") as file:
            file.truncate(cut)
        check(broken, hashes, acknowledged, most=6)
        shutil.rmtree(broken)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["ledger.journal", "delivery.journal"])
def test_a_journal_that_is_lost_or_cut_loses_no_record(
    name: str,
    kept: float,
    prepared: tuple[Path, dict[tuple[str, int], str], set[tuple[str, int]]],
) -> None:
    folder, hashes, acknowledged = prepared
    path = folder / name
    size_bytes = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(round(size_bytes * kept))
    most = len(acknowledged) if name == "ledger.journal" else 0
    check(folder, hashes, acknowledged, most=most, is_ledger_lost=most > 0)


def test_a_journal_that_is_gone_loses_no_record(
    prepared: tuple[Path, dict[tuple[str, int], str], set[tuple[str, int]]],
) -> None:
    folder, hashes, acknowledged = prepared
    (folder / "ledger.journal").unlink()
    check(folder, hashes, acknowledged, most=len(acknowledged), is_ledger_lost=True)


def test_a_journal_of_another_making_is_set_aside(
    prepared: tuple[Path, dict[tuple[str, int], str], set[tuple[str, int]]],
) -> None:
    folder, hashes, acknowledged = prepared

    (folder / "ledger.journal").write_bytes(encode_frame(1, b"", b"[1]"))
    check(folder, hashes, acknowledged, most=len(acknowledged), is_ledger_lost=True)
    assert (folder / "ledger.journal.damaged").exists()


def test_bytes_of_a_frame_inside_a_payload_are_not_taken_for_a_record(tmp_path: Path) -> None:

    spool = Spool(tmp_path / "spool")
    spool.put(1)
    inner = spool.segment_files()[0].read_bytes()
    trap = replace(
        sample(), payload=inner, payload_bytes=len(inner), payload_sha256=sha256(inner).hexdigest()
    )
    spool.writer.append(trap)
    spool.writer.commit()
    path = spool.segment_files()[0]
    data = bytearray(path.read_bytes())
    data[len(inner) + 9] ^= 1  # the head of the second frame
    path.write_bytes(data)
    assert [record.identity.seq for record in spool.drain()] == [0]
    assert spool.ledger().counts.evicted == {"damaged": 1}
    assert read_ledger(spool.folder).balances()
    spool.close()


@pytest.mark.parametrize("name", ["ledger.journal", "delivery.journal"])
def test_a_flipped_bit_in_a_snapshot_changes_nothing(name: str, tmp_path: Path) -> None:
    with faults(is_syncing=False):
        spool = Spool(tmp_path / "spool")
        spool.writer.not_accepted(NotAcceptedReason.NOT_SELECTED, 7)
        spool.put(6)
        spool.reader.acknowledge(record.identity for record in spool.reader.lease(2_000))
        spool.restart_reader()
        spool.restart_writer()
        before = spool.ledger().counts
        assert 0 < before.delivered < 6
        spool.close()
        whole = (spool.folder / name).read_bytes()
        rng = random.Random(name)
        for _ in range(60):
            data = bytearray(whole)
            bit = rng.randrange(len(data) * 8)
            data[bit // 8] ^= 1 << (bit % 8)
            (spool.folder / name).write_bytes(data)
            assert spool.ledger().counts == before
            spool.open_reader()
            spool.open_writer()
            assert spool.ledger().counts == before
            spool.close()


def test_a_name_that_is_no_text_in_a_whole_frame_is_damage_and_no_crash() -> None:
    from edge_agent.spool.segment import decode_wire
    from foundation.errors import CorruptError

    identity = bytes(17)
    for texts in ((b"\xa2", b"key"), (b"topic", b"key", b"\x81", b"value")):
        meta = identity + b"".join(len(text).to_bytes(2, "little") + text for text in texts)
        with pytest.raises(CorruptError):
            decode_wire(meta, b"")


def test_a_long_recovery_shows_that_it_goes_on_at_each_segment(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, segment_bytes=2_000))
    for _ in range(12):
        spool.put(size_bytes=1_500)
    spool.kill_writer()
    ledger = spool.folder / "ledger.journal"
    ledger.write_bytes(b"\xff" * ledger.stat().st_size)
    shown: list[int] = []
    spool.on_wait = lambda: shown.append(1)
    spool.open_writer()
    assert spool.ledger().counts.accepted == 12
    assert len(shown) >= 12
    spool.close()
