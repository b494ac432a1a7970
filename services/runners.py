"""Check which Beam runner a command uses, before anything is opened."""

from __future__ import annotations

from pipelines.runner import RunnerSettings, runner_named


def runner_settings(
    runner: str = "direct",
    workers: int = 1,
    is_multi_process: bool = False,
    job_endpoint: str = "",
    prism_path: str = "",
) -> RunnerSettings:
    """Return the settings of a Beam runner.

    Args:
        runner: direct, prism or portable.
        workers: number of workers of `direct`, 1 to 256.
        is_multi_process: workers of `direct` are processes, not threads.
        job_endpoint: HOST:PORT of the job server, for `portable`.
        prism_path: the Prism program, for `prism`.

    Raises:
        MisconfiguredError: no such runner, or one without what it needs.
    """
    return RunnerSettings(
        runner=runner_named(runner),
        workers=workers,
        multi_processing=is_multi_process,
        job_endpoint=job_endpoint,
        prism_path=prism_path,
    )
