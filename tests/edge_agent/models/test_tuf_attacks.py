"""Attack stories on the downlink: real keys, a real repository, and someone between it and the vehicle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError
from tuf.api.metadata import Metadata, MetaFile, TargetFile
from tuf.ngclient import Updater
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from edge_agent.models import trust as trust_module
from edge_agent.models import trust_folder as trust_folder_module
from edge_agent.models.fetch import ModelFetcher
from edge_agent.models.http import BoundedFetcher, UrlTransport
from edge_agent.models.settings import DownloadSettings
from edge_agent.models.trust import OnlineTrust, SavedTrust
from edge_agent.models.trust_folder import ISSUED_FIELD, TrustFolder
from foundation.errors import FleetLoopError, RetryLaterError, UntrustedError
from modelkit.digest import sha256_hex
from modelkit.fakes import tiny_contract, tiny_model
from rollout.release import KEY, write_index
from rollout.repository import Repository, RepositorySettings, init_repository
from tests.edge_agent.models.model_bench import Bench

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S


class Between:
    """Someone between the repository and the vehicle: may change what any address answers."""

    def __init__(self, bench: Bench) -> None:
        self._real = UrlTransport(DownloadSettings())
        self.bench = bench
        self.answers: dict[str, Callable[[int], Iterator[bytes]]] = {}
        self.asked: list[tuple[str, int]] = []
        self.cut_every_bytes = 0
        self.chunk_s = 0.0

    def open(self, url: str, start_bytes: int) -> tuple[int, Iterator[bytes]]:
        name = url.rsplit("/", 1)[-1]
        self.asked.append((name, start_bytes))
        for suffix, answer in self.answers.items():
            if name.endswith(suffix):
                return start_bytes, answer(start_bytes)
        begins, chunks = self._real.open(url, start_bytes)
        return begins, self._spoiled(chunks, is_model=name.endswith(".onnx"))

    def _spoiled(self, chunks: Iterator[bytes], is_model: bool) -> Iterator[bytes]:
        given = 0
        for chunk in chunks:
            self.bench.clock.advance(self.chunk_s)
            if is_model and self.cut_every_bytes and given + len(chunk) > self.cut_every_bytes:
                yield chunk[: self.cut_every_bytes - given]
                raise DownloadError("the line was cut")
            given += len(chunk)
            yield chunk


@pytest.fixture
def between(bench: Bench) -> Between:
    return Between(bench)


def fetcher(bench: Bench, between: Between, **settings: Any) -> ModelFetcher:
    made = bench.fetcher(**settings)
    return ModelFetcher(
        made._settings,
        bench.state,
        bench.clock,
        made._log,
        transport=between,
        start_trial=made._start_trial,
    )


def refresh(bench: Bench, transport: Any = None) -> OnlineTrust:
    settings = DownloadSettings()
    port = BoundedFetcher(transport or UrlTransport(settings), settings, bench.clock)
    online = OnlineTrust(TrustFolder(bench.state), str(bench.repository.path), port, bench.clock)
    online.refresh()
    return online


def metadata_path(bench: Bench, name: str) -> Path:
    return bench.repository.path / "metadata" / f"{name}.json"


def forge(bench: Bench, role: str, change: Callable[[Any], None], signers: list[Any]) -> None:
    """Publish the next version of a role, changed and signed by whoever; snapshot and timestamp by their
    keys.
    """
    repository = bench.repository
    snapshot = repository.load("snapshot").signed
    document = repository.load(role).signed
    document.version = snapshot.meta[f"{role}.json"].version + 1
    change(document)
    data = sign(document, signers)
    metadata_path(bench, f"{document.version}.{role}").write_bytes(data)
    snapshot.meta[f"{role}.json"] = MetaFile.from_data(document.version, data, ["sha256"])
    with repository.lock():
        repository._publish_snapshot(snapshot)


def sign(document: Any, signers: list[Any]) -> bytes:
    metadata = Metadata(document)
    for signer in signers:
        metadata.sign(signer, append=True)
    data: bytes = metadata.to_bytes()
    return data


def with_release(bench: Bench, release_id: str = "r2") -> None:
    bench.release(release_id, 2)
    bench.plan(release_id)


def evil_listing(bench: Bench) -> Callable[[Any], None]:
    """Lists an evil model and an index that offers it."""
    data = tiny_model(tiny_contract(name="evil"), seed=66)
    evil = replace(
        bench.releases[0], release_id="evil", model_digest=sha256_hex(data), model_target="models/evil.onnx"
    )
    evil = replace(evil, model_bytes=len(data))
    index = write_index([*bench.releases, evil])
    folder = bench.repository.path / "targets" / "models"
    (folder / f"{sha256_hex(data)}.evil.onnx").write_bytes(data)
    (folder / f"{sha256_hex(index)}.index.json").write_bytes(index)

    def change(document: Any) -> None:
        for name, content in (("evil.onnx", data), ("index.json", index)):
            path = f"models/{name}"
            document.targets[path] = TargetFile.from_data(path, content, ["sha256"])

    return change


def assert_never_loads(bench: Bench, transport: Any = None) -> None:
    """Whatever the vehicle does, the evil release is neither fetched nor served."""
    bench.plan("evil")
    done = bench.run(fetcher(bench, transport) if transport else bench.fetcher())
    assert done[-1].outcome == "failed", done
    assert bench.slots.read_candidate() is None
    serving = bench.serving()
    serving.poll()
    assert serving.name == "v1"
    assert bench.trials == []


def test_a_model_signed_by_a_wrong_key_is_refused(bench: Bench) -> None:
    with_release(bench)
    forge(bench, "models", evil_listing(bench), [CryptoSigner.generate_ed25519()])
    online = refresh(bench)
    with pytest.raises(UntrustedError, match="UnsignedMetadataError"):
        online.fetch_index("models")
    assert_never_loads(bench)


def test_a_model_signed_by_the_key_of_the_wrong_role_never_loads(bench: Bench) -> None:
    with_release(bench)
    forge(bench, "models", evil_listing(bench), bench.repository.keys.signers("rollouts"))
    with pytest.raises(UntrustedError, match="UnsignedMetadataError"):
        refresh(bench).fetch_index("models")
    assert_never_loads(bench)
    assert [event.event for event in bench.slots.read_fetch().events] == ["untrusted"]


def test_a_model_listed_by_the_role_of_plans_never_loads(bench: Bench) -> None:
    """The rollouts key signs its own document, properly, with models/* in it: the delegation does not reach
    there.
    """
    with_release(bench)
    forge(bench, "rollouts", evil_listing(bench), bench.repository.keys.signers("rollouts"))
    online = refresh(bench)
    assert online.target("models", "evil.onnx") is None
    index = online.fetch_index("models")
    assert index is not None
    assert [row["release_id"] for row in json.loads(index)[KEY]] == ["r2"]
    assert_never_loads(bench)


def test_a_model_listed_by_the_top_level_role_is_refused(bench: Bench) -> None:
    with_release(bench)
    forge(bench, "targets", evil_listing(bench), bench.repository.keys.signers("targets"))
    with pytest.raises(UntrustedError, match="only models may vouch"):
        refresh(bench).fetch_index("models")
    assert_never_loads(bench)


def test_the_next_publication_does_not_sign_what_a_wrong_key_published(bench: Bench) -> None:
    with_release(bench)
    bench.release("evil", 66, signing_role="rollouts")
    with pytest.raises(UntrustedError):
        refresh(bench).fetch_index("models")
    bench.release("r3", 3)
    index = refresh(bench).fetch_index("models")
    assert index is not None
    assert [row["release_id"] for row in json.loads(index)[KEY]] == ["r2", "r3"]
    assert refresh(bench).target("models", "evil.onnx") is None


def test_one_signature_under_the_threshold_makes_no_root(tmp_path: Path, bench: Bench) -> None:
    repository = init_repository(
        tmp_path / "t2", tmp_path / "k2", threshold=2, root_keys=3, clock=bench.clock
    )
    bench.repository = repository
    TrustFolder(bench.state).install(repository.root_bytes())
    refresh(bench)
    root = repository.load("root").signed
    root.version = 2
    signers = repository.keys.signers("root")
    metadata_path(bench, "2.root").write_bytes(sign(root, signers[:1]))
    with pytest.raises(UntrustedError, match="UnsignedMetadataError"):
        refresh(bench)
    metadata_path(bench, "2.root").write_bytes(sign(root, signers[:2]))
    refresh(bench)


def test_rollback_to_an_older_repository_is_refused(bench: Bench, tmp_path: Path) -> None:
    with_release(bench)
    shutil.copytree(bench.repository.path, tmp_path / "old")
    bench.release("r3", 3)
    refresh(bench)
    shutil.rmtree(bench.repository.path)
    shutil.copytree(tmp_path / "old", bench.repository.path)
    with pytest.raises(UntrustedError, match="BadVersionNumberError"):
        refresh(bench)


def test_rollback_is_refused_even_with_the_stolen_timestamp_key(bench: Bench) -> None:
    with_release(bench)
    old_snapshot = bench.repository.load("timestamp").signed.snapshot_meta
    bench.release("r3", 3)
    refresh(bench)
    timestamp = bench.repository.load("timestamp").signed
    timestamp.version += 1
    timestamp.snapshot_meta = old_snapshot
    metadata_path(bench, "timestamp").write_bytes(sign(timestamp, bench.repository.keys.signers("timestamp")))
    with pytest.raises(UntrustedError, match="BadVersionNumberError"):
        refresh(bench)


def test_rollback_protection_survives_power_loss_in_the_middle_of_a_refresh(bench: Bench) -> None:
    """Metadata is written with fsync and rename: a torn or empty timestamp.json cannot be left behind."""
    with_release(bench)
    refresh(bench)
    written: list[str] = []
    original = trust_module.write_atomic

    def record(path: str | Path, data: bytes, **kwargs: Any) -> None:
        written.append(Path(path).name)
        original(path, data, **kwargs)

    trust_module.write_atomic, restore = record, trust_module.write_atomic
    try:
        bench.release("r3", 3)
        refresh(bench)
    finally:
        trust_module.write_atomic = restore
    assert {"timestamp.json", "snapshot.json"} <= set(written)


def test_freeze_is_noticed_when_the_word_expires(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    bench.clock.advance(6 * DAY_S)
    refresh(bench)
    bench.clock.advance(2 * DAY_S)
    with pytest.raises(UntrustedError, match="freeze protection"):
        refresh(bench)
    with pytest.raises(UntrustedError, match="freeze protection"):
        SavedTrust.load(TrustFolder(bench.state), bench.clock)
    bench.repository.refresh()
    refresh(bench)


def test_freeze_is_noticed_with_the_clock_set_to_1970(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    bench.clock.jump_wall(-bench.clock.now_ns() / 1e9)
    assert bench.clock.now_ns() < DAY_S * 1e9
    refresh(bench)  # the word is still good: the floor is now, not 1970
    bench.clock.advance(8 * DAY_S)
    with pytest.raises(UntrustedError, match="freeze protection"):
        refresh(bench)


def test_freeze_is_noticed_after_many_boots_in_1970(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each boot starts in 1970 with a monotonic clock at zero; days of running still add up."""
    with_release(bench)
    refresh(bench)
    for boot in range(8):
        monkeypatch.setattr(trust_folder_module, "boot_id", lambda boot=boot: f"boot-{boot}")
        bench.clock.jump_wall(-bench.clock.now_ns() / 1e9)
        bench.clock._monotonic_ns = 0
        TrustFolder(bench.state).hold_floor(bench.clock)
        try:
            refresh(bench)
        except UntrustedError as error:
            assert "freeze protection" in str(error)
            assert boot >= 6
            return
        bench.clock.advance(1.1 * DAY_S)
        TrustFolder(bench.state).hold_floor(bench.clock)
    pytest.fail("a frozen repository was believed for more than 8 days")


def test_the_saved_timestamp_stands_for_a_lost_floor(bench: Bench) -> None:
    bench.clock.advance(30 * DAY_S)
    bench.repository.refresh()
    with_release(bench)
    refresh(bench)
    (bench.state / "trust" / "floor.json").write_text("{damaged")
    bench.clock.jump_wall(-YEAR_S)
    trust = TrustFolder(bench.state)
    root = Metadata.from_bytes(trust.newest_root()).signed
    assert trust.reference_ns(root, bench.clock) >= bench.clock.now_ns() + round((YEAR_S - 1) * 1e9)


def test_a_clock_ten_years_ahead_refuses_but_does_no_lasting_harm(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    bench.clock.jump_wall(10 * YEAR_S)
    with pytest.raises(UntrustedError, match="freeze protection"):
        refresh(bench)
    bench.clock.jump_wall(-10 * YEAR_S)
    refresh(bench)


def test_mix_and_match_of_two_states_is_refused(bench: Bench) -> None:
    with_release(bench)
    old = metadata_path(bench, "2.models").read_bytes()
    bench.release("r3", 3)
    metadata_path(bench, "3.models").write_bytes(old)
    with pytest.raises(UntrustedError, match="LengthOrHashMismatchError"):
        refresh(bench).fetch_index("models")


def test_an_index_of_another_time_is_refused(bench: Bench) -> None:
    with_release(bench)
    targets = bench.repository.load("models").signed.targets
    sha256 = targets["models/index.json"].hashes["sha256"]
    bench.release("r3", 3)
    newer = bench.repository.load("models").signed.targets["models/index.json"].hashes["sha256"]
    folder = bench.repository.path / "targets" / "models"
    shutil.copyfile(folder / f"{sha256}.index.json", folder / f"{newer}.index.json")
    with pytest.raises((UntrustedError, RetryLaterError)):
        refresh(bench).fetch_index("models")


def endless(_start: int) -> Iterator[bytes]:
    while True:
        yield b"0" * 65_536


def test_endless_metadata_is_cut_off(bench: Bench, between: Between) -> None:
    with_release(bench)
    between.answers["timestamp.json"] = endless
    with pytest.raises(UntrustedError, match="DownloadLengthMismatchError"):
        refresh(bench, between)


def test_an_endless_model_is_cut_off_at_its_signed_length(bench: Bench, between: Between) -> None:
    with_release(bench)
    between.answers[".onnx"] = endless
    done = bench.run(fetcher(bench, between))
    assert done[-1].outcome == "failed"
    assert "more than the signed" in done[-1].detail
    assert not list((bench.slots.path / "staging").glob("*"))


def test_slow_retrieval_of_metadata_ends_at_its_deadline(bench: Bench, between: Between) -> None:
    def trickle(_start: int) -> Iterator[bytes]:
        for _ in range(100_000):
            bench.clock.advance(5.0)
            yield b" "

    with_release(bench)
    between.answers["timestamp.json"] = trickle
    began_ns = bench.clock.monotonic_ns()
    with pytest.raises(RetryLaterError, match="SlowRetrievalError"):
        refresh(bench, between)
    assert bench.clock.monotonic_ns() - began_ns < 60e9


def test_slow_retrieval_of_a_model_is_named_and_delays_nothing_else(bench: Bench, between: Between) -> None:
    def trickle(_start: int) -> Iterator[bytes]:
        while True:
            bench.clock.advance(0.5)
            yield b"x"

    with_release(bench)
    between.answers[".onnx"] = trickle
    duty = fetcher(bench, between)
    bench.run(duty)
    began_ns = bench.clock.monotonic_ns()
    step = duty.step()
    assert bench.clock.monotonic_ns() - began_ns < 10e9
    assert "SlowRetrievalError" in duty.status().last_error or step.outcome == "idle"
    assert "SlowRetrievalError" in duty.status().last_error


def test_fast_forward_is_undone_by_rotating_the_stolen_keys(bench: Bench) -> None:
    """Versions and time raised as far as they go with stolen keys; new keys bring the vehicle back."""
    with_release(bench)
    refresh(bench)
    timestamp = bench.repository.load("timestamp").signed
    genuine = metadata_path(bench, "timestamp").read_bytes()
    timestamp.version = 2**31
    timestamp.unrecognized_fields[ISSUED_FIELD] += int(50 * YEAR_S)
    timestamp.expires = timestamp.expires.replace(year=timestamp.expires.year + 51)
    metadata_path(bench, "timestamp").write_bytes(sign(timestamp, bench.repository.keys.signers("timestamp")))
    with pytest.raises(UntrustedError):
        refresh(bench)
    metadata_path(bench, "timestamp").write_bytes(genuine)
    with pytest.raises(UntrustedError):
        refresh(bench)
    bench.repository.rotate_key("timestamp")
    bench.repository.rotate_key("snapshot")
    refresh(bench)
    bench.release("r3", 3)
    refresh(bench).fetch_index("models")


def test_a_floor_raised_with_a_stolen_key_falls_when_the_key_is_replaced(bench: Bench) -> None:
    """The thief moves the vehicle's time ahead, within the life of what else is signed; new keys undo it."""
    with_release(bench)
    refresh(bench)
    timestamp = bench.repository.load("timestamp").signed
    timestamp.version += 1
    timestamp.unrecognized_fields[ISSUED_FIELD] += int(20 * DAY_S)
    timestamp.expires = timestamp.expires.replace(year=timestamp.expires.year + 1)
    metadata_path(bench, "timestamp").write_bytes(sign(timestamp, bench.repository.keys.signers("timestamp")))
    refresh(bench)
    floor = TrustFolder(bench.state).read_floor()
    assert floor is not None
    assert floor.at(bench.clock) > bench.clock.now_ns() + 19 * DAY_S * 1e9
    with pytest.raises(UntrustedError, match="freeze protection"):  # its own next word would be too old
        bench.repository.refresh()
        refresh(bench)
    bench.repository.rotate_key("timestamp")
    refresh(bench)
    floor = TrustFolder(bench.state).read_floor()
    assert floor is not None
    assert floor.at(bench.clock) <= bench.clock.now_ns()


def test_a_download_cut_every_64_kb_is_resumed_and_complete(bench: Bench, between: Between) -> None:
    data = tiny_model(tiny_contract(name="large", embedding_size=4000), seed=4)
    assert len(data) > 4 * 65_536
    bench.release("large", 0, data=data)
    bench.plan("large")
    between.cut_every_bytes = 65_536
    duty = fetcher(bench, between)
    for _ in range(60):
        step = duty.step()
        bench.clock.advance(step.wait_s)
        if bench.slots.read_candidate() is not None:
            break
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert bench.slots.read_slot(candidate.slot.digest) == data
    starts = [start for name, start in between.asked if name.endswith(".onnx")]
    assert starts == sorted(set(starts))
    assert starts[1:4] == [65_536, 131_072, 196_608]


def test_a_download_goes_on_after_a_restart_of_deliver(bench: Bench, between: Between) -> None:
    bench.release("large", 0, data=tiny_model(tiny_contract(name="large", embedding_size=4000), seed=4))
    bench.plan("large")
    between.cut_every_bytes = 100_000
    bench.run(fetcher(bench, between))
    between.cut_every_bytes = 0
    bench.clock.advance(10)
    bench.run(fetcher(bench, between))
    starts = [start for name, start in between.asked if name.endswith(".onnx")]
    assert starts == [0, 100_000]
    assert bench.slots.read_candidate() is not None


def test_a_truncated_model_is_never_taken(bench: Bench, between: Between) -> None:
    data = bench.release("r2", 2)
    bench.plan("r2")
    between.answers[".onnx"] = lambda start: iter([data[start : len(data) - 10]])
    duty = fetcher(bench, between)
    for _ in range(3):
        done = bench.run(duty)
        bench.clock.advance(400)
        assert done[-1].outcome in ("failed", "idle")
    assert bench.slots.read_candidate() is None
    assert bench.trials == []


def test_other_bytes_of_the_right_length_are_thrown_away(bench: Bench, between: Between) -> None:
    data = bench.release("r2", 2)
    bench.plan("r2")
    between.answers[".onnx"] = lambda start: iter([bytes(len(data) - start)])
    done = bench.run(fetcher(bench, between))
    assert "not those that were signed" in done[-1].detail
    assert not list((bench.slots.path / "staging").glob("*"))
    assert bench.slots.read_candidate() is None


def test_a_resumed_download_on_a_spoiled_beginning_is_thrown_away_and_begun_again(bench: Bench) -> None:
    data = bench.release("r2", 2)
    bench.plan("r2")
    staged = bench.slots.path / "staging" / f"{sha256_hex(data)}.part"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"spoiled by the disk" + bytes(100))
    duty = bench.fetcher()
    assert bench.run(duty)[-1].outcome == "failed"
    bench.clock.advance(400)
    bench.run(duty)
    assert bench.slots.read_candidate() is not None


def test_a_chain_of_257_roots_is_followed(bench: Bench) -> None:
    root = bench.repository.load("root").signed
    signers = bench.repository.keys.signers("root")
    for version in range(2, 259):
        root.version = version
        metadata_path(bench, f"{version}.root").write_bytes(sign(root, signers))
    refresh(bench)
    refresh(bench)
    with_release(bench)
    refresh(bench)
    assert Metadata.from_bytes(TrustFolder(bench.state).newest_root()).signed.version == 258


def test_a_root_that_skips_a_version_is_refused(bench: Bench) -> None:
    root = bench.repository.load("root").signed
    root.version = 3
    metadata_path(bench, "2.root").write_bytes(sign(root, bench.repository.keys.signers("root")))
    with pytest.raises(UntrustedError, match="BadVersionNumberError"):
        refresh(bench)


def test_a_vehicle_without_a_root_trusts_nothing(bench: Bench) -> None:
    (bench.state / "trust" / "bootstrap_root.json").unlink()
    with pytest.raises(UntrustedError, match="enrol this vehicle"):
        refresh(bench)


def test_a_vehicle_that_was_off_for_months_just_refreshes(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    for month in range(6):
        bench.clock.advance(30 * DAY_S)
        bench.repository.refresh()
        bench.release(f"m{month}", 10 + month)
    bench.repository.rotate_root()
    bench.repository.rotate_key("models")
    index = refresh(bench).fetch_index("models")
    assert index is not None
    assert len(json.loads(index)[KEY]) == 7


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", "models", "rollouts"])
def test_a_rotated_key_is_refused_from_then_on(bench: Bench, role: str) -> None:
    with_release(bench)
    refresh(bench)
    old = bench.repository.keys.signers(role)
    bench.repository.rotate_key(role)
    refresh(bench).fetch_index("models")
    document = bench.repository.load(role).signed
    document.version += 1
    data = sign(document, old)
    with pytest.raises(UntrustedError):
        if role == "timestamp":
            metadata_path(bench, "timestamp").write_bytes(data)
            refresh(bench)
        elif role == "snapshot":
            timestamp = bench.repository.load("timestamp").signed
            timestamp.version += 1
            timestamp.snapshot_meta = MetaFile.from_data(document.version, data, ["sha256"])
            metadata_path(bench, f"{document.version}.snapshot").write_bytes(data)
            signed = sign(timestamp, bench.repository._online_signers("timestamp"))
            metadata_path(bench, "timestamp").write_bytes(signed)
            refresh(bench)
        else:
            forge(bench, role, lambda _document: None, old)
            online = refresh(bench)
            online.fetch_index("models")
            online.fetch_index("rollouts")


def test_every_crash_of_a_publication_leaves_a_repository_that_clients_can_use(bench: Bench) -> None:
    class KilledError(BaseException):
        pass

    with_release(bench)
    for step in ("targets", "role", "snapshot", "timestamp"):

        def kill(at: str, step: str = step) -> None:
            if at == step:
                raise KilledError

        keys_path = bench.repository.keys._path
        broken = Repository(bench.repository.path, keys_path, clock=bench.clock, on_step=kill)
        with pytest.raises(KilledError):
            broken.publish("models", {"note.txt": step.encode()})
        online = refresh(bench)
        index = online.fetch_index("models")
        assert index is not None
        assert (online.target("models", "note.txt") is not None) == (step == "timestamp")
        assert online.fetch_index("rollouts") is not None
    bench.repository.publish("models", {"note.txt": b"at last"})
    assert refresh(bench).target("models", "note.txt") is not None


def test_every_crash_of_a_rotation_leaves_a_repository_that_clients_can_use(bench: Bench) -> None:
    class KilledError(BaseException):
        pass

    with_release(bench)
    for role in ("timestamp", "snapshot", "targets", "models"):
        for step in ("root-both", "snapshot", "timestamp", "republished"):

            def kill(at: str, step: str = step) -> None:
                if at == step:
                    raise KilledError

            keys_path = bench.repository.keys._path
            broken = Repository(bench.repository.path, keys_path, clock=bench.clock, on_step=kill)
            try:
                broken.rotate_key(role)
            except KilledError:
                pass
            assert refresh(bench).fetch_index("models") is not None
        bench.repository.rotate_key(role)
        bench.release(f"after-{role}", 7)
        assert refresh(bench).fetch_index("models") is not None


def test_this_version_of_the_library_lets_time_be_set_and_files_be_made_durable() -> None:
    """Guards the two places where we reach into python-tuf: an update that moves them must fail here."""
    assert hasattr(Updater, "_persist_file")
    assert hasattr(Updater, "_load_root")
    assert "reference_time" in TrustedMetadataSet.__init__.__code__.co_names


def test_the_life_of_a_word_can_be_set(tmp_path: Path, bench: Bench) -> None:
    settings = RepositorySettings(timestamp_expiry_s=3600)
    repository = init_repository(tmp_path / "t3", tmp_path / "k3", settings=settings, clock=bench.clock)
    bench.repository = repository
    TrustFolder(bench.state).install(repository.root_bytes())
    refresh(bench)
    bench.clock.advance(3700)
    with pytest.raises(FleetLoopError, match="freeze protection"):
        refresh(bench)
