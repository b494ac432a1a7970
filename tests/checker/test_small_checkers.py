"""Each small checker reports every violation it knows on a minimal example, and nothing of a sound one."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.checker.access_books import forged_violations, refused_violations
from tests.checker.broker_log import LogRecord
from tests.checker.exposure import Did, Published, exposure_violations
from tests.checker.frames_played import Recording, frames_violations
from tests.checker.model_books import Answer, answer_violations, events_of, folder_violations, read_answers
from tests.checker.opened_files import opened, strangers
from tests.checker.power_states import judge_slots, judge_versions
from tests.checker.ride_books import Disturbance, Ride, disturbance_violations, ride_violations
from tests.checker.secrets_told import everything_in, tellings
from tests.checker.told import Account, EpochAccount, Identity

E = "e" * 16
MODEL = b"a model"
DIGEST = hashlib.sha256(MODEL).hexdigest()
OTHER = "0" * 64


def words(violations: list[str]) -> list[str]:
    return [one.partition(":")[0] for one in violations]


# power_states


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A vehicle that serves one model and took in version 5 of the timestamp."""
    slots, trust = tmp_path / "models" / "slots", tmp_path / "trust" / "metadata"
    slots.mkdir(parents=True)
    trust.mkdir(parents=True)
    (slots / f"{DIGEST}.onnx").write_bytes(MODEL)
    (trust / "timestamp.json").write_text('{"signed": {"version": 5}}')
    events = [{"event": "activated", "model_digest": DIGEST}, {"event": "halted", "model_digest": OTHER}]
    role = tmp_path / "models" / "roles" / "serving"
    role.mkdir(parents=True)
    (role / "active.json").write_text(json.dumps({"active": {"digest": DIGEST}, "events": events}))
    return tmp_path


def slots(state: Path, **changes: Any) -> list[str]:
    told = {"serving": DIGEST, "allowed": [DIGEST], "timestamp": 5, "is_finite": True} | changes
    return words(judge_slots(state, **told))


def test_slots_after_a_power_loss(state: Path) -> None:
    assert slots(state) == []
    assert slots(state, allowed=[OTHER]) == ["other_model"]
    assert slots(state, is_finite=False) == ["no_answer"]
    assert slots(state, timestamp=6) == ["rolled_back_trust"]
    (state / "trust" / "metadata" / "timestamp.json").write_text('{"signed"')
    assert slots(state) == ["rolled_back_trust"]
    (state / "trust" / "metadata" / "timestamp.json").unlink()
    assert slots(state) == ["rolled_back_trust"]
    assert slots(state, timestamp=0) == []
    (state / "models" / "slots" / f"{DIGEST}.onnx").write_bytes(MODEL[:-1])
    assert slots(state, timestamp=0) == ["slot_is_not_its_digest"]


class Fleet:
    """A git repository with one tagged dataset version, and the objects of it in a remote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".dvc").mkdir(parents=True)
        (folder / ".dvc" / "config").write_text("['remote \"store\"']\n    url = ../remote\n")
        store = folder / "remote"
        data = b"rows"
        name = hashlib.md5(data, usedforsecurity=False).hexdigest()
        listing = json.dumps([{"md5": name, "relpath": "rows"}]).encode()
        self.listing = hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"
        self.file, self.dir = (store / "files" / "md5" / one[:2] / one[2:] for one in (name, self.listing))
        for path, content in ((self.file, data), (self.dir, listing)):
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        (folder / "registry" / "datasets").mkdir(parents=True)
        self.git("init", "-q")
        self.write('{"id": "v1"}', f"path: datasets/current\n  hash: md5\n  md5: {self.listing}\n")

    def git(self, *arguments: str) -> None:
        name = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(self.folder), *name, *arguments], check=True, capture_output=True)

    def write(self, record: str, lock: str | None) -> None:
        (self.folder / "registry" / "datasets" / "v1.json").write_text(record)
        if lock is None:
            (self.folder / "dvc.lock").unlink()
        else:
            (self.folder / "dvc.lock").write_text(lock)
        self.git("add", "-A", "registry", *(["dvc.lock"] if (self.folder / "dvc.lock").exists() else []))
        self.git("commit", "-q", "-a", "-m", "version", "--allow-empty")
        self.git("tag", "-f", "dataset/v1")

    def judge(self, *must: str, may: tuple[str, ...] = ()) -> list[str]:
        return [one.removeprefix("dataset/v1: ").partition(":")[0] for one in self.all(*must, may=may)]

    def all(self, *must: str, may: tuple[str, ...] = ()) -> list[str]:
        return judge_versions(self.folder, must=must, may=may)


def test_versions_after_a_power_loss(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    assert fleet.judge("v1") == fleet.judge(may=("v1", "v2")) == []
    assert fleet.judge("v2") == ["tag_lost"]
    fleet.file.write_bytes(b"row")
    assert fleet.judge("v1") == ["object_torn"]
    fleet.file.unlink()
    assert fleet.judge("v1") == ["object_lost"]
    fleet.dir.unlink()
    assert fleet.judge("v1") == ["object_lost"]
    assert fleet.judge(may=("v1",)) == []
    fleet.write('{"id": "v1"', "path: elsewhere\n")
    assert fleet.judge("v1") == ["record_torn", "lock_torn"]
    fleet.write('{"id": "v1"}', None)
    assert fleet.judge("v1") == ["commit_torn"]


# access_books


def account(**places: tuple[int, int]) -> Account:
    ranges = {name: (pair,) for name, pair in places.items()}
    sizes = {name: end - begin for name, (begin, end) in places.items()}
    delivered, pending = sizes.get("delivered", 0), sizes.get("pending", 0)
    epoch = EpochAccount(E, 9, 0, delivered + pending, delivered, pending, 0, 0, ranges)
    return Account("car", delivered + pending, delivered, pending, 0, 0, {E: epoch})


@pytest.mark.parametrize(
    ("told", "log", "states", "is_shut_out", "expected"),
    [
        (account(pending=(0, 3)), [], ["waiting", "refused"], True, []),
        (account(delivered=(0, 1), pending=(1, 3)), [0], ["connected", "refused"], False, []),
        (account(pending=(0, 3)), [], ["waiting"], True, ["refusal_not_told"]),
        (account(delivered=(0, 1)), [], ["refused"], False, ["delivered_and_nowhere"]),
        (account(pending=(0, 3)), [1], ["refused"], True, ["refused_and_written"]),
        (account(delivered=(0, 1)), [0], ["refused"], True, ["refused_and_written", "refused_and_counted"]),
        (account(), [], ["refused"], True, ["refused_and_counted"]),
    ],
)
def test_a_refused_vehicle(
    told: Account, log: list[int], states: list[str], is_shut_out: bool, expected: list[str]
) -> None:
    in_log = [Identity("car", E, seq) for seq in log] + [Identity("another", E, 7)]
    found = refused_violations(told, in_log, states, is_shut_out_from_the_start=is_shut_out)
    assert words(found) == expected


def test_forged_records() -> None:
    rejected = ("car", "rejected")
    assert forged_violations([rejected] * 2, 2) == []
    for rows in ([rejected], [rejected, ("car", "accepted")], [rejected] * 3):
        assert words(forged_violations(rows, 2)) == ["forged_and_not_rejected"]


# ride_books


def test_a_ride() -> None:
    calm = Disturbance("cut", 10.0, 5.0, 7, 1.0)
    assert disturbance_violations(calm) == []
    assert words(disturbance_violations(replace(calm, rate_during_hz=4.9))) == ["frames_missed"]
    assert words(disturbance_violations(replace(calm, drained_s=None))) == ["backlog_stays"]
    ride = Ride(9, 9, 9, {}, 0, {"deliver": 64_000_000})
    assert ride_violations(ride) == []
    for changes, expected in (
        ({"not_accepted": {"disk_error": 1}, "frames_seen": 10}, "frames_refused"),
        ({"frames_seen": 10}, "frames_missed"),
        ({"receipts": 8}, "receipts_differ"),
        ({"perceive_restarts": 1}, "perceive_died"),
        ({"growth_bytes": {"deliver": 64_000_001}}, "memory_grew"),
    ):
        assert words(ride_violations(replace(ride, **changes))) == [expected]  # type: ignore[arg-type]


# frames_played

RECORDING = Recording({"p", "q"}, 1)


def played(digests: str = "pqpq", **changes: Any) -> list[str]:
    records = [LogRecord(0, n, Identity("car", E, n), "v", digest) for n, digest in enumerate(digests)]
    ledger: dict[str, Any] = {"not_accepted": {"unreadable_image": 2}, "epochs": []}
    return words(frames_violations(RECORDING, records, ledger | changes))


def test_a_recording_that_was_played_twice() -> None:
    epoch = {"epoch": E, "previous_epoch": ""}
    assert played(epochs=[epoch, {"epoch": "f", "previous_epoch": E}]) == []
    assert played("pqp") == ["frames_miscounted"]
    assert played("pppq") == ["captured_again"]
    assert played("pqpqp") == ["frames_miscounted", "captured_again"]
    assert played(epochs=[epoch, {"epoch": "f", "previous_epoch": ""}]) == ["epochs_broken"]
    two = Recording({"p"}, 2)
    ledger = {"not_accepted": {"unreadable_image": 3}, "epochs": []}
    records = [LogRecord(0, 0, Identity("car", E, 0), "v", "p")]
    assert words(frames_violations(two, records, ledger)) == ["refused_miscounted", "frames_miscounted"]


# model_books

ANSWERS = [Answer(n, DIGEST, True, float(n)) for n in range(3)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: [], "no frame was answered"),
        (lambda a: [a[0], a[2]], "came frame 2"),
        (lambda a: [*a[:2], replace(a[2], time_s=4.0)], "without an answer"),
        (lambda a: [a[0], replace(a[1], model=""), a[2]], "by no model"),
        (lambda a: [a[0], replace(a[1], model=OTHER), a[2]], "must not serve"),
        (lambda a: [a[0], replace(a[1], is_finite=False), a[2]], "not finite"),
    ],
)
def test_answers_of_models(change: Callable[[list[Answer]], list[Answer]], told: str) -> None:
    assert answer_violations(ANSWERS, [DIGEST], DIGEST, 2.0) == []
    (found,) = answer_violations(change(ANSWERS), [DIGEST], DIGEST, 2.0)
    assert told in found


def test_the_last_answer_and_a_torn_line(tmp_path: Path) -> None:
    assert "at last" in answer_violations(ANSWERS, [DIGEST], OTHER, 2.0)[0]
    line = json.dumps({"frame": 0, "model": DIGEST, "finite": True, "time_s": 0.0})
    (tmp_path / "answers").write_text(f"{line}\n{line[:9]}")
    assert read_answers(tmp_path / "answers") == ANSWERS[:1]
    assert read_answers(tmp_path / "none") == []


def test_a_folder_of_models(state: Path) -> None:
    slot = state / "models" / "slots" / f"{DIGEST}.onnx"
    assert folder_violations(state, [DIGEST]) == []
    assert events_of(state, "activated") == [DIGEST]
    assert "must not serve" in folder_violations(state, [OTHER])[0]
    slot.write_bytes(b"other")
    assert "other bytes" in folder_violations(state, [DIGEST])[0]
    slot.rename(state / "elsewhere")
    slot.symlink_to(state / "elsewhere")
    assert "no file" in folder_violations(state, [DIGEST])[0]
    shutil.rmtree(state / "models")
    assert "is there" in folder_violations(state, [DIGEST])[0]


# exposure

RELEASE = "r1"
POSITION = {name: hashlib.sha256(f"{RELEASE}/{name}".encode()).hexdigest() for name in ("a", "b", "c")}
FIRST, SECOND, THIRD = sorted(POSITION, key=lambda name: POSITION[name])


def wave(held: int, count: int = 1) -> dict[str, object]:
    bound = sorted(POSITION.values())[held]
    return {"exact_count": count, "threshold_hex": bound}


def published(time_s: float, waves: list[dict[str, object]], state: str = "open") -> Published:
    plan = {"release_id": RELEASE, "waves": waves, "state": state}
    return Published(time_s, json.dumps({"plans": [plan]}).encode())


ONE, TWO = published(0, [wave(1)]), published(10, [wave(1), wave(2)])
SERVED = [Did(1, FIRST, "serves", 0), Did(2, FIRST, "well", 0), Did(11, SECOND, "serves", 1)]


@pytest.mark.parametrize(
    ("states", "did", "told"),
    [
        ([ONE, TWO], SERVED, None),
        (
            [ONE, TWO, published(20, [wave(1), wave(2)], "complete")],
            [*SERVED, Did(21, THIRD, "serves", 2)],
            None,
        ),
        ([ONE, TWO], [*SERVED, Did(3, SECOND, "serves", 0)], "the open waves hold 1"),
        ([ONE], [Did(1, "new", "serves", 0)], "enrolled after"),
        ([ONE, published(5, [wave(1)], "halted")], [Did(6, FIRST, "serves", 1)], "had read the halt"),
        ([ONE, TWO], SERVED[:1], "had said they were well"),
        ([published(0, [wave(1, count=2)])], SERVED[:2], "1 were asked for"),
        ([published(0, [wave(2)])], SERVED[:2], "does not hold exactly 1"),
    ],
)
def test_exposure(states: list[Published], did: list[Did], told: str | None) -> None:
    found = exposure_violations(RELEASE, [1, 1], list(POSITION), states, did)
    if told is None:
        assert found == []
    else:
        assert len(found) == 1
        assert told in found[0]


# opened_files, secrets_told


def test_files_that_were_opened(tmp_path: Path) -> None:
    trace = (
        '12 openat(AT_FDCWD, "slot/model.onnx", O_RDONLY) = 3\n'
        '12 openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = -1 ENOENT (No such file)\n'
        '12 open("slot/../../out\\303\\251side", O_RDONLY) = 4\n'
        "12 close(3) = 0\n"
    )
    paths = opened(trace, tmp_path)
    assert paths[0] == tmp_path / "slot" / "model.onnx"
    assert len(paths) == 2
    assert strangers(paths, [tmp_path / "slot"]) == [paths[1]]
    assert strangers(paths, [tmp_path.parent]) == []


def test_a_secret_in_any_spelling(tmp_path: Path) -> None:
    secret = b"s3cr&t/canary+value"
    spelt = [secret, quote(secret).encode(), secret.hex().encode(), secret.hex().upper().encode()]
    spelt += [base64.b64encode(b"x" * before + secret + b"yz") for before in range(3)]
    texts = {str(number): b"... " + word + b" ..." for number, word in enumerate(spelt)} | {
        "none": b"harmless"
    }
    assert tellings(secret, texts) == [str(number) for number in range(len(spelt))]
    (tmp_path / "log").write_bytes(b"harmless")
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("member", secret)
    assert tellings(secret, dict(everything_in(tmp_path, frozenset({tmp_path / "log"})))) == [
        "a.whl",
        "a.whl/member",
    ]
