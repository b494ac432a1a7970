from __future__ import annotations

import os
import shlex
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.transforms.periodicsequence import PeriodicImpulse

from foundation.errors import MisconfiguredError, RetryLaterError
from pipelines.runner import (
    PipelineFailedError,
    Runner,
    RunnerSettings,
    check_job_server,
    endless_steps,
    run,
    runner_named,
)


def test_an_endless_read_is_refused_on_the_local_runner_before_anything_starts() -> None:
    started = []

    def build(pipeline: beam.Pipeline) -> Any:
        return pipeline | "Poll" >> PeriodicImpulse(fire_interval=1) | "Note" >> beam.Map(started.append)

    with pytest.raises(MisconfiguredError, match=r"'Poll.*unbounded read.*'prism' or 'portable'"):
        run(build, RunnerSettings())
    assert not started


def test_a_bounded_read_is_not_called_endless() -> None:
    told = []

    def build(pipeline: beam.Pipeline) -> Any:
        _ = pipeline | beam.Create([1]) | beam.Reshuffle() | beam.Map(str)
        told.append(endless_steps(pipeline))

    run(build, RunnerSettings())
    assert told == [[]]


def test_a_pipeline_that_is_killed_leaves_nothing_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed means: no code of ours runs any more. So nothing may be there while it runs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    there: list[Path] = []

    def look(_: int) -> None:
        there.extend(tmp_path.iterdir())

    run(lambda pipeline: pipeline | beam.Create([1]) | beam.Map(look), RunnerSettings())
    assert there == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_local_runner_runs_in_this_process(workers: int, tmp_path: Path) -> None:
    def build(pipeline: beam.Pipeline) -> Any:
        return pipeline | beam.Create([1, 2, 3]) | beam.Reshuffle() | beam.Map(_touch, str(tmp_path))

    run(build, RunnerSettings(workers=workers))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "3"]


def test_worker_processes_start_where_the_path_of_python_has_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "a folder" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    def build(pipeline: beam.Pipeline) -> Any:
        return pipeline | beam.Create([1, 2, 3]) | beam.Reshuffle() | beam.Map(_touch_by, str(tmp_path))

    run(build, RunnerSettings(workers=2, multi_processing=True))
    made = [path.name.split("-") for path in tmp_path.iterdir() if "-" in path.name]
    assert sorted(number for number, _ in made) == ["1", "2", "3"]
    assert str(os.getpid()) not in {process for _, process in made}


def _touch_by(number: int, folder: str) -> None:
    (Path(folder) / f"{number}-{os.getpid()}").touch()


def _touch(number: int, folder: str) -> None:
    (Path(folder) / str(number)).touch()


def _fail(number: int) -> None:
    raise MisconfiguredError(f"number {number} is not allowed")


def _failing(pipeline: beam.Pipeline) -> Any:
    return pipeline | beam.Create([7]) | "Fail" >> beam.Map(_fail)


def test_an_error_of_ours_comes_out_of_a_step_as_itself_in_one_process() -> None:
    with pytest.raises(MisconfiguredError, match="number 7 is not allowed"):
        run(_failing, RunnerSettings())


def test_from_another_worker_a_step_that_fails_says_its_own_last_words() -> None:
    with pytest.raises(PipelineFailedError, match=r"MisconfiguredError.*number 7 is not allowed"):
        run(_failing, RunnerSettings(workers=2))


def test_no_runner_is_guessed_or_started_without_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="no runner 'spark'; name one of direct, prism, portable"):
        runner_named("spark")
    with pytest.raises(MisconfiguredError, match="job_endpoint"):
        RunnerSettings(runner=Runner.PORTABLE)
    with pytest.raises(MisconfiguredError, match="prism_path"):
        RunnerSettings(runner=Runner.PRISM, prism_path=str(tmp_path / "none"))
    with pytest.raises(MisconfiguredError, match=r"workers is 0.*\[1, 256\]"):
        RunnerSettings(workers=0)


def test_a_job_server_that_is_away_is_named_within_its_deadline() -> None:
    settings = RunnerSettings(Runner.PORTABLE, job_endpoint="127.0.0.1:1", connect_deadline_s=0.2)
    with pytest.raises(RetryLaterError, match=r"no job server answered at 127\.0\.0\.1:1"):
        run(lambda pipeline: pipeline | beam.Create([1]), settings)


def test_whatever_listens_and_is_no_job_server_is_named_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RetryLaterError, match=endpoint):
            check_job_server(endpoint, 0.2)
