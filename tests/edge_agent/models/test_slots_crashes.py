"""A vehicle killed at any file operation of fetching, swapping or giving way goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.models.slots import SlotFolder
from foundation import syscalls
from modelkit.predictor import Prediction
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.test_slots_serving import DARK, FRAME, PickyBackend, nan_when_dark
from tests.fakes.models import FakeBackend

OPERATIONS = ("rename", "fsync", "unlink", "write_all")


class KilledError(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """The `number`-th file operation (from 0) never happens: the process is gone."""
    done: list[str] = []
    real: dict[str, Callable[..., object]] = {name: getattr(syscalls, name) for name in OPERATIONS}
    is_dead = [False]

    def spoil(name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if is_dead[0] or len(done) == number:
                is_dead[0] = True
                raise KilledError(name)
            done.append(name)
            return real[name](*arguments)

        return call

    for name in OPERATIONS:
        setattr(syscalls, name, spoil(name))
    try:
        yield done
    finally:
        for name, call in real.items():
            setattr(syscalls, name, call)


def every_kill(tmp_path: Path, prepare: Callable[[Bench], Callable[[], object]]) -> Iterator[Bench]:
    """A fresh vehicle for each operation at which the action is killed, until it runs to its end."""
    for number in range(200):
        bench = Bench(_folder(tmp_path, number))
        action = prepare(bench)
        with killed_at(number):
            try:
                action()
            except KilledError:
                died = True
            else:
                died = False
        yield bench
        if not died:
            assert number > 3
            return
    pytest.fail("the action never ran to its end")


def _folder(tmp_path: Path, number: int) -> Path:
    folder = tmp_path / str(number)
    folder.mkdir()
    return folder


def offer(bench: Bench) -> None:
    bench.release("r2", 2)
    bench.plan("r2")


def answers(bench: Bench) -> Prediction:
    return bench.serving(FakeBackend()).predict([FRAME]).predictions[0]


@pytest.mark.slow
def test_deliver_killed_at_any_file_operation_of_a_fetch_goes_on(tmp_path: Path) -> None:
    def prepare(bench: Bench) -> Callable[[], object]:
        offer(bench)
        fetcher = bench.fetcher()
        return lambda: bench.run(fetcher)

    for bench in every_kill(tmp_path, prepare):
        assert answers(bench).is_finite
        bench.run(bench.fetcher())
        candidate = bench.slots.read_candidate()
        assert candidate is not None
        serving = bench.serving()
        serving.poll()
        assert serving.name == "r2"


@pytest.mark.slow
def test_perceive_killed_at_any_file_operation_of_a_swap_goes_on(tmp_path: Path) -> None:
    def prepare(bench: Bench) -> Callable[[], object]:
        offer(bench)
        bench.run(bench.fetcher())
        return bench.serving().poll

    for bench in every_kill(tmp_path, prepare):
        assert answers(bench).is_finite
        serving = bench.serving()
        serving.poll()
        assert (serving.name, serving.swaps) == ("r2", 1)


@pytest.mark.slow
def test_perceive_killed_at_any_file_operation_of_a_rollback_goes_on(tmp_path: Path) -> None:
    def prepare(bench: Bench) -> Callable[[], object]:
        offer(bench)
        bench.run(bench.fetcher())
        serving = bench.serving(PickyBackend(r2=nan_when_dark))
        serving.poll()
        return lambda: serving.predict([DARK])

    for bench in every_kill(tmp_path, prepare):
        serving = bench.serving(PickyBackend(r2=nan_when_dark))
        served = serving.predict([DARK])
        assert served.model_name == "v1"
        assert served.predictions[0].is_finite
        assert SlotFolder(bench.state).read_active().blocked == {"r2": "not_finite"}
        bench.run(bench.fetcher())
        assert serving.poll() is None
