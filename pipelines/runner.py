"""Run a pipeline on the runner that was named, and refuse an unbounded read on a runner that would lose records.

`direct` is Beam's local runner (FnApiRunner) in this process; it takes bounded reads only. It finalises the checkpoint
of an unbounded read before the data has passed a shuffle, so a crash would lose what was read: such a pipeline is
refused before it starts. `prism` and `portable` (a Flink job server, for example) take unbounded reads. No runner is
ever downloaded, as Beam would do by default.
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
    """Which runner to use, and with how many workers.

    `workers` applies to `direct`: 1 runs in this process, more run as threads, or as processes with `multi_processing`.
    `job_endpoint` (HOST:PORT) applies to `portable`, `prism_path` to `prism`; `environment` is Beam's environment type,
    which says how workers are started.
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
    """Further Beam options as on a command line, for example a runner's own."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_WORKERS:
            raise MisconfiguredError(f"workers is {self.workers}; it must be in [1, {MAX_WORKERS}]")
        if self.runner is Runner.PORTABLE and not self.job_endpoint:
            raise MisconfiguredError("runner 'portable' needs job_endpoint HOST:PORT of its job server")
        if self.runner is Runner.PRISM and not Path(self.prism_path or "/nonexistent").is_file():
            raise MisconfiguredError(
                f"prism_path is {self.prism_path!r}; runner 'prism' needs the path of the Prism program"
            )


def runner_named(name: str) -> Runner:
    """Return the runner of that name. Raises MisconfiguredError, which lists the runners there are."""
    try:
        return Runner(name)
    except ValueError as error:
        raise MisconfiguredError(f"there is no runner {name!r}; name one of {', '.join(Runner)}") from error


def run(build: Callable[[beam.Pipeline], Any], settings: RunnerSettings) -> None:
    """Build a pipeline, run it and wait until it has finished.

    Raises:
        MisconfiguredError: the pipeline reads without end on a runner that would lose records; nothing was started.
        PipelineFailedError: a step failed in another process; the message ends with that step's own error.
        FleetLoopError: a step failed in this process with this error.
    """
    runner, options = _runner_and_options(settings)
    pipeline = beam.Pipeline(runner=runner, options=options)
    # Only transforms in other languages use this folder, and a process that is killed would leave it behind.
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)
    build(pipeline)
    endless = endless_steps(pipeline)
    if endless and settings.runner is Runner.DIRECT:
        raise MisconfiguredError(
            f"step {endless[0]!r} is an unbounded read, and the runner 'direct' finalises its checkpoint"
            " before the data is durable: use the runner 'prism' or 'portable', or read a bounded range"
        )
    if settings.runner is Runner.PORTABLE:
        check_job_server(settings.job_endpoint, settings.connect_deadline_s)
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except (RuntimeError, grpc.RpcError, grpc.FutureTimeoutError) as error:
        raise PipelineFailedError(f"the pipeline failed: {_last_words(error)}") from error


def check_job_server(endpoint: str, deadline_s: float) -> None:
    """Return once a job server answers at `endpoint` (HOST:PORT).

    Beam itself waits five minutes without a message. Raises RetryLaterError when nothing answers within `deadline_s`.
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
    """Return the full labels of the steps whose output is unbounded."""
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
    """Return an environment that runs each worker as a process of this Python interpreter.

    Beam's own mode `multi_processing` passes the path of Python to a shell unquoted: if it holds a space, no worker
    starts and the pipeline waits for ever. An environment given with the mode `in_memory` works, with a warning.
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
