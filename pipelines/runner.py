"""One way to run a pipeline: on the runner that was named, and never with a read that this runner would lose.

`direct` is Beam's local runner (FnApiRunner), in this process: bounded only. It makes an endless read final
before its data got past a shuffle, so a crash would lose everything read; that is refused before anything
starts. `prism` and `portable` (a Flink job server, for one) take endless reads. No runner is ever downloaded:
Beam's own default would.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.runners.common import DoFnSignature
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, fn_runner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import Environment, SubprocessSDKEnvironment

from foundation.errors import MisconfiguredError, RetryLaterError

MAX_WORKERS = 256


class Runner(StrEnum):
    """The runners that may be named."""

    DIRECT = "direct"
    PRISM = "prism"
    PORTABLE = "portable"


class PipelineFailedError(RetryLaterError):
    """A step of the pipeline failed; nothing of it was committed, so it may be run again."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Which runner, and how wide.

    `workers` is for `direct`: 1 runs in this process, more run as threads, or as processes when
    `multi_processing`. `job_endpoint` (HOST:PORT) is for `portable`, `prism_path` for `prism`; `environment`
    is how workers are started.
    """

    runner: Runner = Runner.DIRECT
    workers: int = 1
    multi_processing: bool = False
    job_endpoint: str = ""
    prism_path: str = ""
    environment: str = "LOOPBACK"
    connect_deadline_s: float = 20.0
    """How long a job server may take to answer."""
    extra: tuple[str, ...] = field(default=())
    """Further Beam options, as on a command line: for a runner's own ones."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_WORKERS:
            raise MisconfiguredError(f"workers is {self.workers}; it must be in [1, {MAX_WORKERS}]")
        if self.runner is Runner.PORTABLE and not self.job_endpoint:
            raise MisconfiguredError("runner 'portable' needs job_endpoint HOST:PORT of its job server")
        if self.runner is Runner.PRISM and not Path(self.prism_path or "/nonexistent").is_file():
            raise MisconfiguredError(
                f"runner 'prism' needs prism_path, the program itself; got {self.prism_path!r}"
            )


def runner_named(name: str) -> Runner:
    """Raises MisconfiguredError that lists the runners there are."""
    try:
        return Runner(name)
    except ValueError as error:
        raise MisconfiguredError(f"there is no runner {name!r}; name one of {', '.join(Runner)}") from error


def run(build: Callable[[beam.Pipeline], Any], settings: RunnerSettings) -> None:
    """Build the pipeline and run it to its end.

    Raises:
        MisconfiguredError: an endless read on a runner that would lose it; nothing was started.
        PipelineFailedError: a step failed in another process; its message has the step's own last words.
        FleetLoopError: a step failed in this process with that error.
    """
    runner, options = _runner_and_options(settings)
    pipeline = beam.Pipeline(runner=runner, options=options)
    # Only transforms in other languages use this folder, and a process that is killed would leave it behind.
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)
    build(pipeline)
    endless = endless_steps(pipeline)
    if endless and settings.runner is Runner.DIRECT:
        raise MisconfiguredError(
            f"step {endless[0]!r} reads without end, and the runner 'direct' makes such a read final"
            " before its data is safe: name the runner 'prism' or 'portable', or read a bounded range"
        )
    if settings.runner is Runner.PORTABLE:
        check_job_server(settings.job_endpoint, settings.connect_deadline_s)
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except (RuntimeError, grpc.RpcError, grpc.FutureTimeoutError) as error:
        raise PipelineFailedError(f"the pipeline failed: {_last_words(error)}") from error


def check_job_server(endpoint: str, deadline_s: float) -> None:
    """Return when a job server answers at `endpoint` within `deadline_s`.

    Why: Beam waits five minutes for one, without a word. Raises RetryLaterError: it may come back.
    """
    channel = grpc.insecure_channel(endpoint)
    try:
        grpc.channel_ready_future(channel).result(timeout=deadline_s)
    except grpc.FutureTimeoutError as error:
        raise RetryLaterError(
            f"no job server answered at {endpoint} within {deadline_s:g} s: is it started, and is the port right?"
        ) from error
    finally:
        channel.close()


def endless_steps(pipeline: beam.Pipeline) -> list[str]:
    """Full labels of the steps whose output has no end."""
    visitor = _EndlessVisitor()
    pipeline.visit(visitor)
    return visitor.labels


class _EndlessVisitor(PipelineVisitor):
    def __init__(self) -> None:
        self.labels: list[str] = []

    def enter_composite_transform(self, transform_node: AppliedPTransform) -> None:
        self._look(transform_node)

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        self._look(transform_node)

    def _look(self, node: AppliedPTransform) -> None:
        is_endless = any(not output.is_bounded for output in node.outputs.values())
        if isinstance(node.transform, beam.ParDo):
            is_endless = is_endless or DoFnSignature(node.transform.fn).is_unbounded_per_element()
        if is_endless:
            self.labels.append(node.full_label)


def _runner_and_options(settings: RunnerSettings) -> tuple[PipelineRunner, PipelineOptions]:
    flags = list(settings.extra)
    if settings.runner is Runner.DIRECT:
        is_in_threads = settings.workers > 1 and not settings.multi_processing
        mode = "multi_threading" if is_in_threads else "in_memory"
        flags += [f"--direct_num_workers={settings.workers}", f"--direct_running_mode={mode}"]
        if settings.multi_processing and settings.workers > 1:
            return FnApiRunner(default_environment=_worker_processes()), PipelineOptions(flags)
        return FnApiRunner(), PipelineOptions(flags)
    flags.append(f"--environment_type={settings.environment}")
    if settings.runner is Runner.PRISM:
        from apache_beam.runners.portability.prism_runner import PrismRunner

        return PrismRunner(), PipelineOptions([*flags, f"--prism_location={settings.prism_path}"])
    from apache_beam.runners.portability.portable_runner import PortableRunner

    return PortableRunner(), PipelineOptions([*flags, f"--job_endpoint={settings.job_endpoint}"])


def _worker_processes() -> Environment:
    """Workers as processes of this Python.

    Why not Beam's own mode `multi_processing`? It gives the path of Python to a shell as it is: with a space in it no
    worker starts, and the pipeline waits for ever. An environment given with the mode `in_memory` is taken, and warned of.
    """
    logging.getLogger(fn_runner.__name__).addFilter(_is_not_about_the_mode)
    command = f"{shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    return SubprocessSDKEnvironment.from_command_string(command_string=command)


def _is_not_about_the_mode(record: logging.LogRecord) -> bool:
    return "direct_running_mode" not in str(record.msg)


def _last_words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line and not line.startswith(("File ", "Traceback"))]
    return (told or lines or ["no message"])[-1][:2000]
