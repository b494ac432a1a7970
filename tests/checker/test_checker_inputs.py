"""The checker reads a real log and a real table as they are, and gives no verdict on what it cannot read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from kafka import KafkaProducer

from connectors.kafka.admin import ensure_topics
from connectors.lake.schema import ARRIVALS
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.snapshot import read_ledger as exported_ledger
from edge_agent.spool.writer import SpoolWriter
from foundation.clock import ManualClock
from foundation.events import EventLog
from schemas.codec import encode_sample
from schemas.identity import Identity as ProductIdentity
from schemas.reasons import NotAcceptedReason
from schemas.records import Sample
from schemas.signing import VehicleKey, sign_record
from schemas.topics import TOPICS
from scripts import golden_vectors as golden
from scripts.schema_compatibility import FOLDER as SCHEMA_FOLDER
from tests.checker.__main__ import main, only_topic_id
from tests.checker.broker_log import log_record, read_log, read_schemas
from tests.checker.lake_files import read_rows
from tests.checker.told import Identity, InputError, read_ledger, read_offered, read_receipts
from tests.checker.true_world import ledger

EPOCH = "00000000000000aa"
TOPIC_ID = "id-1"
KEY = VehicleKey.generate()
BASE = golden.examples()["sample-4-full"]
assert isinstance(BASE, Sample)


def signed(seq: int) -> tuple[Sample, bytes, list[tuple[str, bytes]]]:
    payload = b"picture %d" % seq
    sample = replace(
        BASE,
        vehicle_id="car-1",
        epoch=EPOCH,
        seq=seq,
        payload=payload,
        payload_bytes=len(payload),
        payload_sha256=hashlib.sha256(payload).hexdigest(),
    )
    wire = sign_record(
        TOPICS.samples, "sample", ProductIdentity("car-1", EPOCH, seq), encode_sample(sample), KEY
    )
    return sample, wire.value, list(wire.headers)


def arrivals(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in ARRIVALS.names} for row in rows], ARRIVALS)


def landed(partition: int, offset: int, seq: int) -> dict[str, Any]:
    sample, value, _ = signed(seq)
    return {
        "origin": "log",
        "topic": TOPICS.samples,
        "topic_id": TOPIC_ID,
        "partition": partition,
        "offset": offset,
        "offset_end": offset + 1,
        "outcome": "landed",
        "vehicle_id": "car-1",
        "epoch": EPOCH,
        "seq": seq,
        "value_sha256": hashlib.sha256(value).hexdigest(),
        "payload_sha256": sample.payload_sha256,
        "payload_uri": "",
        "payload": sample.payload,
    }


def rejected(partition: int, offset: int, value: bytes) -> dict[str, Any]:
    return {
        **landed(partition, offset, 0),
        "outcome": "rejected",
        "vehicle_id": None,
        "epoch": None,
        "seq": None,
        "value_sha256": hashlib.sha256(value).hexdigest(),
        "payload_sha256": None,
        "payload_uri": None,
        "payload": None,
        "raw_value": value,
    }


def test_receipts_are_read_up_to_the_line_that_a_kill_cut(tmp_path: Path) -> None:
    path = tmp_path / "receipts"
    path.write_text(
        f"starting\nRECEIPT {EPOCH} 0 {'a' * 64}\nRECEIPT {EPOCH} 10 {'b' * 64}\nRECEIPT {EPOCH} 11 cc"
    )
    assert read_receipts("car-1", path) == [
        (Identity("car-1", EPOCH, 0), "a" * 64),
        (Identity("car-1", EPOCH, 10), "b" * 64),
    ]


def test_a_receipt_that_a_kill_cut_hides_no_receipt_of_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "receipts"
    whole = f"RECEIPT {EPOCH} 7 {'c' * 64}"
    for cut in range(1, len(whole) + 1):
        path.write_text(whole[:cut] + f"RECEIPT {EPOCH[:-2]}bb 0 {'d' * 64}\n")
        assert read_receipts("car-1", path) == [(Identity("car-1", EPOCH[:-2] + "bb", 0), "d" * 64)], cut


def test_what_the_real_spool_prints_and_exports_is_what_the_checker_reads(tmp_path: Path) -> None:
    settings = SpoolSettings(receipt_path=str(tmp_path / "receipts"))
    clock = ManualClock()
    writer = SpoolWriter.open(tmp_path / "spool", settings, "car-1", KEY, clock, EventLog(None, clock))
    for seq in range(3):
        writer.append(signed(seq)[0])
    writer.not_accepted(NotAcceptedReason.NOT_SELECTED, 5)
    writer.commit()
    writer.close()
    receipts = read_receipts("car-1", tmp_path / "receipts")
    book = tmp_path / "ledger.json"
    book.write_text(json.dumps(exported_ledger(tmp_path / "spool").to_json()))
    found = read_ledger("car-1", book)
    assert [identity for identity, _ in receipts] == [Identity("car-1", writer.epoch, n) for n in range(3)]
    assert (found.accepted, found.pending) == (3, 3)
    assert list(found.epochs[writer.epoch].numbers("pending")) == [0, 1, 2]


@pytest.mark.parametrize(
    "line", ["RECEIPT", f"RECEIPT {EPOCH} 01 {'a' * 64}", f"RECEIPT {EPOCH} 1 {'A' * 64}"]
)
def test_a_receipt_in_another_form_is_no_receipt(tmp_path: Path, line: str) -> None:
    path = tmp_path / "receipts"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match="line 1 is no receipt"):
        read_receipts("car-1", path)


def test_offers_are_read_and_others_refused(tmp_path: Path) -> None:
    path = tmp_path / "offered.jsonl"
    path.write_text(json.dumps({"payload_sha256": "a" * 64, "frame_id": "f"}) + '\n{"payload_sha')
    assert read_offered(path) == {"a" * 64}
    for bad in ("{}", "[]", "x", '{"payload_sha256": "A"}'):
        path.write_text(bad + "\n")
        with pytest.raises(InputError, match="line 1"):
            read_offered(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_offered(tmp_path / "absent")


def test_a_ledger_export_is_read_and_others_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps(ledger(delivered=[[0, 3]], evicted={"quota": [[3, 4]], "age": [[5, 7]]})))
    found = read_ledger("car-1", path)
    assert (found.accepted, found.delivered, found.evicted) == (6, 3, 3)
    assert list(found.epochs[EPOCH].numbers("evicted")) == [3, 5, 6]
    for bad in ("{}", "[]", "x", '{"epochs": 3}'):
        path.write_text(bad)
        with pytest.raises(InputError, match="no ledger export"):
            read_ledger("car-1", path)


def test_the_table_is_read_from_its_files_and_hashed_anew(tmp_path: Path) -> None:
    uri = str(tmp_path / "arrivals")
    lying = {**landed(0, 1, 1), "payload": b"another picture"}
    write_deltalake(uri, arrivals([landed(0, 0, 0), lying]))
    write_deltalake(
        uri, arrivals([rejected(1, 0, b"rubbish"), {**landed(0, 9, 9), "topic": "other"}]), mode="append"
    )
    rows = {(row.partition, row.offset): row for row in read_rows(uri, TOPICS.samples)}
    assert set(rows) == {(0, 0), (0, 1), (1, 0)}
    assert rows[0, 0].identity == Identity("car-1", EPOCH, 0)
    assert rows[0, 0].payload_digest == rows[0, 0].payload_sha256
    assert rows[0, 1].payload_digest == hashlib.sha256(b"another picture").hexdigest()
    assert rows[0, 1].payload_digest != rows[0, 1].payload_sha256
    assert rows[1, 0].raw_value_digest == hashlib.sha256(b"rubbish").hexdigest()
    assert rows[1, 0].identity is None
    assert only_topic_id(list(rows.values())) == TOPIC_ID


def test_a_table_that_is_missing_or_of_another_form_gets_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no table"):
        read_rows(str(tmp_path / "nothing"), TOPICS.samples)
    write_deltalake(str(tmp_path / "other"), pa.table({"x": [1]}))
    with pytest.raises(InputError, match="lacks the columns"):
        read_rows(str(tmp_path / "other"), TOPICS.samples)


def test_two_topics_of_one_name_need_a_word_which(tmp_path: Path) -> None:
    uri = str(tmp_path / "arrivals")
    write_deltalake(uri, arrivals([landed(0, 0, 0), {**landed(0, 0, 1), "topic_id": "id-2"}]))
    with pytest.raises(InputError, match="id-1, id-2"):
        only_topic_id(read_rows(uri, TOPICS.samples))


def test_payloads_are_found_by_the_checkers_own_decoding() -> None:
    schemas = read_schemas(SCHEMA_FOLDER)
    sample, value, headers = signed(3)
    record = log_record(0, 7, headers, value, schemas)
    assert record.identity == Identity("car-1", EPOCH, 3)
    assert record.payload_sha256 == sample.payload_sha256
    assert log_record(0, 0, [], b"rubbish", schemas).identity is None
    assert log_record(0, 0, headers, value[:-3], schemas).payload_sha256 is None
    assert log_record(0, 0, [("fl_vehicle", None)], None, schemas).payload_sha256 is None


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        yield broker.bootstrap


@pytest.fixture(scope="module")
def log_rows(bootstrap: str) -> list[dict[str, Any]]:
    """Seven records in the broker's log, and the rows that a right ingest makes of them."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    rows = []
    for seq in (0, 1, 2, 2, 3):
        _, value, headers = signed(seq)
        sent = producer.send(TOPICS.samples, value=value, key=b"car-1", headers=headers).get(timeout=30)
        rows.append(landed(sent.partition, sent.offset, seq))
    for value in (b"rubbish", b""):
        sent = producer.send(TOPICS.samples, value=value, key=b"x", partition=0).get(timeout=30)
        rows.append(rejected(sent.partition, sent.offset, value))
    producer.close(timeout=10)
    first = rows[2]
    place = f"{TOPIC_ID}/{first['partition']}/{first['offset']}"
    rows[3] = {**rows[3], "outcome": "resent", "resend_of": place, "payload": None}
    return rows


def test_the_log_is_read_from_its_first_offset_to_its_end(
    bootstrap: str, log_rows: list[dict[str, Any]]
) -> None:
    log = read_log(bootstrap, TOPICS.samples, read_schemas(SCHEMA_FOLDER))
    assert {(record.partition, record.offset, record.value_sha256) for record in log.records} == {
        (row["partition"], row["offset"], row["value_sha256"]) for row in log_rows
    }
    assert sum(end - begin for begin, end in log.bounds.values()) == len(log_rows)
    with pytest.raises(InputError, match="no topic absent"):
        read_log(bootstrap, "absent", read_schemas(SCHEMA_FOLDER))


def test_the_last_batch_of_the_log_is_read_to_its_end() -> None:
    """The embedded broker lists an end that is one past the first record of its last batch."""
    _, value, headers = signed(0)
    with EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", linger_ms=500)
        sent = [
            producer.send(TOPICS.samples, value=value, key=b"car-1", headers=headers, partition=1)
            for _ in range(20)
        ]
        producer.close(timeout=10)
        assert [future.get(timeout=1).offset for future in sent] == list(range(20))
        log = read_log(broker.bootstrap, TOPICS.samples, read_schemas(SCHEMA_FOLDER))
    assert [record.offset for record in log.records] == list(range(20))
    assert log.bounds[1] == (0, 20)


def run(
    tmp_path: Path, bootstrap: str, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, Any]]:
    """The command line over a table of `rows`; receipts and ledger say that seq 0 to 3 were accepted."""
    uri = tmp_path / "arrivals"
    write_deltalake(str(uri), arrivals(rows))
    receipts, book, offered = tmp_path / "receipts", tmp_path / "ledger.json", tmp_path / "offered.jsonl"
    samples = [signed(seq) for seq in range(4)]
    receipts.write_text(
        "".join(
            f"RECEIPT {EPOCH} {seq} {hashlib.sha256(value).hexdigest()}\n"
            for seq, (_, value, _) in enumerate(samples)
        )
    )
    book.write_text(json.dumps(ledger(delivered=[[0, 4]])))
    offered.write_text(
        "".join(json.dumps({"payload_sha256": s.payload_sha256}) + "\n" for s, _, _ in samples)
    )
    status = main(
        ["--bootstrap", bootstrap, "--lake", str(uri), "--schemas", str(SCHEMA_FOLDER),
         "--offered", str(offered), "--receipts", f"car-1={receipts}", "--ledger", f"car-1={book}"]
    )  # fmt: skip
    return status, json.loads(capsys.readouterr().out)


def test_a_right_run_is_acquitted_by_the_command(
    tmp_path: Path, bootstrap: str, log_rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    status, verdict = run(tmp_path, bootstrap, log_rows, capsys)
    assert (status, verdict["violations"]) == (0, {})
    assert verdict["counts"]["rows"] == {"landed": 4, "rejected": 2, "resent": 1}


def test_a_run_without_resend_marking_is_convicted_by_the_command(
    tmp_path: Path, bootstrap: str, log_rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    again = landed(log_rows[3]["partition"], log_rows[3]["offset"], 2)
    status, verdict = run(tmp_path, bootstrap, [*log_rows[:3], again, *log_rows[4:]], capsys)
    assert (status, set(verdict["violations"])) == (1, {"landed_twice"})


def test_a_run_that_lost_a_row_is_convicted_by_the_command(
    tmp_path: Path, bootstrap: str, log_rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    status, verdict = run(tmp_path, bootstrap, log_rows[1:], capsys)
    assert (status, set(verdict["violations"])) == (1, {"offset_has_no_row", "accepted_and_lost"})


def test_no_verdict_is_never_a_good_verdict(
    tmp_path: Path, bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--bootstrap",
        bootstrap,
        "--lake",
        str(tmp_path / "absent"),
        "--schemas",
        str(SCHEMA_FOLDER),
    ]
    assert main(arguments) == 2
    assert main([*arguments, "--receipts", "car-1"]) == 2
    assert "no verdict" in capsys.readouterr().err
