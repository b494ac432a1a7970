"""Whatever comes over the line, only the bytes that were signed are taken: endless, slow, cut, short or other data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from foundation.errors import RetryLaterError, UntrustedError
from modelkit.digest import sha256_hex
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.tuf_rig import (
    Between,
    fetcher,
    refresh,
    with_release,
)
from tests.fakes.models import tiny_contract, tiny_model


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
    job = fetcher(bench, between)
    bench.run(job)
    began_ns = bench.clock.monotonic_ns()
    step = job.step()
    assert bench.clock.monotonic_ns() - began_ns < 10e9
    assert "SlowRetrievalError" in job.status().last_error or step.outcome == "idle"
    assert "SlowRetrievalError" in job.status().last_error


def test_a_download_cut_every_64_kb_is_resumed_and_complete(bench: Bench, between: Between) -> None:
    data = tiny_model(tiny_contract(name="large", embedding_size=4000), seed=4)
    assert len(data) > 4 * 65_536
    bench.release("large", 0, data=data)
    bench.plan("large")
    between.cut_every_bytes = 65_536
    job = fetcher(bench, between)
    for _ in range(60):
        step = job.step()
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
    job = fetcher(bench, between)
    for _ in range(3):
        done = bench.run(job)
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
    job = bench.fetcher()
    assert bench.run(job)[-1].outcome == "failed"
    bench.clock.advance(400)
    bench.run(job)
    assert bench.slots.read_candidate() is not None


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_link_in_the_staging_is_not_written_through(bench: Bench, link: str) -> None:
    data = bench.release("r2", 2)
    bench.plan("r2")
    outside = bench.state.parent / "outside"
    outside.write_bytes(b"of somebody else")
    staged = bench.slots.path / "staging" / f"{sha256_hex(data)}.part"
    staged.parent.mkdir(parents=True)
    if link == "symbolic":
        staged.symlink_to(outside)
    else:
        staged.hardlink_to(outside)
    bench.run(bench.fetcher())
    assert bench.slots.read_candidate() is not None
    assert outside.read_bytes() == b"of somebody else"
