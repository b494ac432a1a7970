"""Named points in the pipelines' side effects, at which a test can make a process crash or fail.

Each step that changes a file or a table calls `reached("ingest.rename")` right after it. Without a hook the call does
nothing; only code in the same process can set one, never the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Hook = Callable[[str], object]

_hooks: list[Hook] = []


def reached(label: str) -> None:
    """Run the hooks for the step `label`, which is done. An exception of a hook propagates to the caller."""
    for hook in _hooks:
        hook(label)


@contextmanager
def watched(hook: Hook) -> Iterator[None]:
    """Call `hook` with the label of every step that is done in this process while the context is open."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
