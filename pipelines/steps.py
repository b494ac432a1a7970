"""Every step that changes the outside world says its name when it is done, so that a test can stop it there.

A step calls `reached("ingest.rename")` right after it. In production that does nothing. Nothing is configured
through the environment: a test process sets the hook itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Hook = Callable[[str], None]

_hooks: list[Hook] = []


def reached(label: str) -> None:
    """Say that the step `label` is done. What a hook raises goes through to the caller."""
    for hook in _hooks:
        hook(label)


@contextmanager
def watched(hook: Hook) -> Iterator[None]:
    """Call `hook` with the label of every step that is done in this process meanwhile."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
