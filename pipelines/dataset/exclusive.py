"""The lock that keeps lake.lock and datasets/current unchanged while a dataset version is committed.

Replacing one of them holds it for a moment, and a commit holds it until the tag. It is not the lock of the DVC writer,
which `dvc repro` holds while its stage curate runs. It is acquired last, after the locks of DVC and of curation, so that
there is no deadlock.
"""

from __future__ import annotations

from foundation.files import FileLock
from workspace.layout import Workspace


def dataset_lock(workspace: Workspace) -> FileLock:
    """Return the lock. Entering waits up to lock_wait_s, then raises RetryLaterError with the holder's pid."""
    workspace.private_path.mkdir(exist_ok=True)
    return FileLock(workspace.private_path / "dataset.lock", wait_s=workspace.settings.lock_wait_s)
