"""What a dataset version is made of stays as it is while it is committed: lake.lock and datasets/current.

Whoever replaces one of them, and whoever commits them, holds one lock meanwhile (a moment for the first, until the tag
for the second). It is not the lock of DVC's writer: `dvc repro` holds that one while its stage curate runs. Taken
last, after the locks of DVC and of curation, so that nobody waits in a circle.
"""

from __future__ import annotations

from foundation.files import FileLock
from workspace.layout import Workspace


def dataset_lock(workspace: Workspace) -> FileLock:
    """To be entered. Waits up to lock_wait_s of fleetloop.toml, then raises RetryLaterError with the holder's pid."""
    workspace.private_path.mkdir(exist_ok=True)
    return FileLock(workspace.private_path / "dataset.lock", wait_s=workspace.settings.lock_wait_s)
