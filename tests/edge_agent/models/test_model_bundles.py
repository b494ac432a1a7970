"""A release of several files comes, is tried, serves and goes as one of one file does; nothing of it leaves its folder."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from edge_agent.models import bundle_fetch
from edge_agent.models.settings import DownloadSettings
from edge_agent.models.slot_documents import FetchState
from edge_agent.models.slots import BUNDLE_LIST, SlotFolder
from foundation import syscalls
from foundation.errors import CorruptError, RejectedError
from modelkit import bundle
from modelkit.bundle import Bundle
from modelkit.runtimes import open_predictor, open_runtime
from modelkit.verify import verify_model
from rollout.release import GateReport, publish_release
from schemas.bundle import bundle_bytes, bundle_digest, graph_of
from schemas.documents import HALTED, Gate, Release, bundle_target
from schemas.downlink import RELEASES_KEY, index_targets
from schemas.roles import SERVING
from tests.edge_agent.models.model_bench import Bench
from tests.fakes.models import tiny_contract, tiny_model
from tests.modelkit.bundle_rig import DATA_NAME, write_bundle
from tests.waiting import until

PICTURE = np.full((40, 40, 3), 90, dtype=np.uint8)


def published(bench: Bench, release_id: str = "b1", seed: int = 3, role: str = SERVING) -> Release:
    """A bundle that passed the gate, and a plan that wants it of everybody."""
    bundle = write_bundle(
        bench.state.parent / f"made-{release_id}", release_id, seed, graph="onnx/model.onnx"
    )
    release = publish_release(
        bench.repository, bundle, GateReport(True, ""), bench.clock, release_id=release_id, role=role
    )
    bench.releases = [*bench.releases, release]
    bench.plan(release_id, role=role, is_bundle=True)
    return release


def staged(bench: Bench, release: Release) -> Path:
    return bench.slots.path / "staging" / release.model_digest


def is_candidate(bench: Bench, release_id: str = "b1") -> bool:
    candidate = bench.slots.read_candidate()
    return candidate is not None and candidate.slot.release_id == release_id


def test_a_bundle_is_fetched_tried_by_the_runtime_and_serves_with_the_tensors_beside_its_graph(
    bench: Bench,
) -> None:
    release = published(bench)
    duty = bench.fetcher(real_trial=True)
    until(lambda: duty.step().outcome == "failed" or is_candidate(bench), "the trial ends", 120.0)
    assert is_candidate(bench), duty.status()
    serving = bench.serving(open_runtime())
    assert serving.poll() is not None
    assert (serving.name, serving.digest) == ("b1", release.model_digest)
    (said,) = serving.predict([PICTURE]).predictions
    whole = open_predictor(verify_model(tiny_model(tiny_contract(name="b1"), seed=3), None))
    assert np.array_equal(said.embedding, whole.predict([PICTURE])[0].embedding)
    assert bench.serving(open_runtime()).name == "b1", "after a restart too"
    assert not staged(bench, release).exists()


def test_a_bundle_may_have_any_role(bench: Bench) -> None:
    published(bench, role="shadow")
    bench.run(bench.fetcher())
    models = bench.models(open_runtime())
    models.poll()
    assert [served.model_name for served in models.predict([PICTURE])] == ["v1", "b1"]


def test_a_download_that_is_cut_at_every_step_goes_on_where_it_was(bench: Bench) -> None:
    release = published(bench)
    most = 0
    for _ in range(200):
        duty = bench.fetcher(slice_s=0.01, download=DownloadSettings(chunk_bytes=1024))
        duty.step()  # looks at the repository
        before = sum(path.stat().st_size for path in staged(bench, release).rglob("*") if path.is_file())
        assert before >= most
        most = before
        bench.clock.advance(1.0)
        duty.step()
        duty.close()
        if bench.slots.find(release.model_digest) is not None:
            break
    bench.run(bench.fetcher())
    assert is_candidate(bench)
    assert bench.slots.verified(release.model_digest).digest == release.model_digest


@pytest.mark.parametrize("name", ["onnx/model.onnx", f"onnx/{DATA_NAME}", "tokenizer.json"])
def test_a_file_that_is_not_what_was_signed_is_removed_and_fetched_again(bench: Bench, name: str) -> None:
    release = published(bench)
    (file,) = (file for file in release.files if file.path == name)
    path = staged(bench, release) / name
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(file.length_bytes))
    duty = bench.fetcher()
    steps = bench.run(duty)
    assert "not those that were signed" in steps[-1].detail
    assert not path.exists()
    bench.clock.advance(1000.0)
    bench.run(duty)
    assert is_candidate(bench)


def test_what_stands_in_the_place_of_a_folder_is_taken_away_and_nothing_is_written_through_it(
    bench: Bench,
) -> None:
    release, outside = published(bench), bench.state.parent / "outside"
    outside.mkdir()
    (outside / "model.onnx").write_bytes(b"of somebody else")
    staged(bench, release).mkdir(parents=True)
    (staged(bench, release) / "onnx").symlink_to(outside, target_is_directory=True)
    (staged(bench, release) / "tokenizer.json").symlink_to(outside / "model.onnx")
    bench.run(bench.fetcher())
    assert is_candidate(bench)
    assert (outside / "model.onnx").read_bytes() == b"of somebody else"
    assert [path.name for path in outside.iterdir()] == ["model.onnx"]


def test_a_download_begins_only_when_all_of_it_has_room(bench: Bench) -> None:
    release = published(bench)
    room = [release.model_bytes + 999]
    duty = bench.fetcher(min_free_bytes=1000)
    duty._free_bytes = lambda _folder: room[0]
    steps = bench.run(duty)
    assert f"{release.model_bytes} bytes are to come and 1000 are kept free, the disk has" in steps[-1].detail
    assert not staged(bench, release).exists()
    assert bench.slots.read_fetch().refused == {}
    room[0] += 1
    bench.clock.advance(1000.0)
    bench.run(duty)
    assert is_candidate(bench)


@pytest.mark.parametrize(("left", "kept"), [(0, False), (100_000_000, True)])
def test_a_download_stops_when_its_room_goes_and_gives_back_what_could_not_be_completed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, left: int, kept: bool
) -> None:
    release = published(bench)
    room = 10**9
    duty = bench.fetcher(min_free_bytes=200_000_000)
    duty._free_bytes = lambda _folder: room
    while not duty.status().bytes_staged:
        assert duty.step().outcome != "failed"
    room = left
    while (step := duty.step()).outcome == "ok":
        assert not is_candidate(bench)
    assert "the disk has" in step.detail
    assert staged(bench, release).exists() is kept
    room = 10**9
    bench.clock.advance(1000.0)
    bench.run(duty)
    assert is_candidate(bench)


def test_a_bundle_that_nothing_names_any_more_is_removed_whole(bench: Bench) -> None:
    release = published(bench)
    duty = bench.fetcher()
    bench.run(duty)
    bench.run(duty)
    path = bench.slots.bundle_path(release.model_digest)
    assert path.is_dir()
    bench.plan("b1", HALTED)
    bench.run(duty)
    bench.run(duty)
    assert [each.name for each in path.parent.iterdir()] == [f"{bench.slots.read_factory().digest}.onnx"]


@pytest.mark.parametrize("damage", ["changed", "missing", "other list", "no list"])
def test_a_damaged_bundle_does_not_serve_and_is_fetched_again(bench: Bench, damage: str) -> None:
    release = published(bench)
    bench.run(bench.fetcher())
    path = bench.slots.bundle_path(release.model_digest)
    if damage == "changed":
        (path / "onnx" / DATA_NAME).write_bytes(bytes((path / "onnx" / DATA_NAME).stat().st_size))
    elif damage == "missing":
        (path / "tokenizer.json").unlink()
    elif damage == "other list":
        other = write_bundle(bench.state.parent / "other", "b2", 4)
        shutil.copytree(other.folder, path, dirs_exist_ok=True)
        listed = (path / BUNDLE_LIST).read_text().replace(release.files[0].sha256, other.files[0].sha256)
        (path / BUNDLE_LIST).write_text(listed)
    else:
        (path / BUNDLE_LIST).unlink()
    with pytest.raises(CorruptError):
        bench.slots.verified(release.model_digest)
    serving = bench.serving()
    assert serving.poll() is None
    assert serving.name == "v1"
    bench.slots.write_candidate(None)
    bench.run(bench.fetcher())
    assert serving.poll() is not None
    assert serving.name == "b1"


@pytest.mark.parametrize("location", ["../../outside.bin", "/etc/passwd", "../tokenizer.json"])
def test_tensors_that_lie_outside_the_bundle_are_refused_by_the_gate_and_by_the_vehicle(
    bench: Bench, location: str
) -> None:
    bundle = write_bundle(bench.state.parent / "evil", "evil", graph="onnx/model.onnx", location=location)
    with pytest.raises(RejectedError) as caught:
        publish_release(bench.repository, bundle, GateReport(True, ""), bench.clock, release_id="evil")
    assert caught.value.reason == "external_data"
    sign_anyway(bench, bundle)
    bench.plan("evil", is_bundle=True)
    bench.run(bench.fetcher())
    assert bench.slots.read_fetch().refused == {"evil": "external_data"}
    assert bench.slots.find(bundle.digest) is None
    assert not (bench.slots.path / "staging" / bundle.digest).exists()


def sign_anyway(bench: Bench, bundle: Bundle) -> None:
    """As somebody with the key of the role models would."""
    files = bundle.files
    release = Release(
        "evil",
        "evil",
        bundle_digest(files),
        bundle_target(graph_of(files)),
        bundle_bytes(files),
        "0" * 64,
        Gate(passed=True),
        bench.clock.now_ns(),
        files=files,
    )
    targets = {f"{file.sha256}.bin": bundle.folder / file.path for file in files}
    bench.repository.publish("models", {**targets, **index_targets(RELEASES_KEY, [*bench.releases, release])})


class KilledError(BaseException):
    """The process ends here."""


def dying(call: Callable[..., object], left: Iterator[int]) -> Callable[..., object]:
    def counted(*given: object) -> object:
        if next(left) <= 0:
            raise KilledError
        return call(*given)

    return counted


def test_killed_at_any_change_of_a_file_a_slot_is_whole_or_not_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = published(bench)
    at, is_done = 0, False
    while not is_done:
        shutil.rmtree(bench.slots.path / "staging", ignore_errors=True)
        shutil.rmtree(bench.slots.bundle_path(release.model_digest), ignore_errors=True)
        bench.slots.write_candidate(None)
        bench.slots.write_fetch(FetchState())  # else each kill is one more trial that came to no end
        with monkeypatch.context() as faults:
            left = itertools.count(at, -1)
            for name in ("fsync", "rename", "unlink"):
                faults.setattr(syscalls, name, dying(getattr(syscalls, name), left))
            try:
                bench.run(bench.fetcher())
                is_done = True
            except KilledError:
                pass
        if bench.slots.find(release.model_digest) is not None:
            assert SlotFolder(bench.state).verified(release.model_digest).digest == release.model_digest
        steps = bench.run(bench.fetcher())
        assert is_candidate(bench), f"killed at change {at}: {steps}"
        at += 1
    assert at > 5, "there were changes to be killed at"


@pytest.mark.parametrize("hash_s", [100, 1000])
def test_a_side_bundle_that_takes_long_to_hash_is_hashed_once_although_halts_are_looked_for_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, hash_s: int
) -> None:
    release = published(bench, role="shadow")
    total = sum(file.length_bytes for file in release.bundle)
    monkeypatch.setattr(bundle_fetch, "CHUNK_BYTES", max(1, total // hash_s))
    real, hashed = bundle_fetch.open_own_file, 0

    class Slow:
        """Hands out a chunk per second."""

        def __init__(self, stream: IO[bytes]) -> None:
            self.seek = stream.seek
            self._stream = stream

        def read(self, size: int) -> bytes:
            nonlocal hashed
            data = self._stream.read(size)
            hashed += len(data)
            bench.clock.advance(1.0 if data else 0.0)
            return data

    @contextmanager
    def slow(path: Path, name: str) -> Iterator[Slow]:
        with real(path, name) as stream:
            yield Slow(stream)

    monkeypatch.setattr(bundle_fetch, "open_own_file", slow)
    fetcher, shadow = bench.fetcher(), SlotFolder(bench.state, "shadow")
    for _ in range(4 * hash_s):
        bench.clock.advance(fetcher.step().wait_s)
        if shadow.read_candidate() is not None:
            break
    assert shadow.read_candidate() is not None
    assert hashed == total
    assert fetcher.status().refreshes >= hash_s // 60


def test_bundles_that_take_long_to_verify_show_that_it_goes_on_piece_by_piece_and_role_by_role(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the swap, and at the next start."""
    release = published(bench, role="shadow")
    bench.run(bench.fetcher())
    monkeypatch.setattr(bundle, "CHUNK_BYTES", 100)
    pieces = sum(file.length_bytes // 100 for file in release.bundle)
    assert pieces > 5
    shown: list[str] = []
    models = bench.models(open_runtime(), on_progress=lambda: shown.append("start"))
    assert shown, "the serving model, which is one file"
    shown.clear()
    models.poll()
    assert len(shown) >= pieces
    shown.clear()
    bench.models(open_runtime(), on_progress=lambda: shown.append("again"))
    assert len(shown) >= pieces + 2
