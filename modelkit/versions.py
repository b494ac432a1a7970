"""Check that a runtime is installed in a version that this code was tested with, before it is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from foundation.errors import MisconfiguredError


@dataclass(frozen=True, slots=True)
class Requirement:
    """A distribution, the versions that are known to work, in [least, below), and the extra of FleetLoop that installs it."""

    distribution: str
    least: str
    below: str
    extra: str
    builds: tuple[str, ...] = ()
    """Names of other distributions of the same library, with other devices."""

    def installed(self) -> str:
        """Return the installed version.

        Raises:
            MisconfiguredError: none is installed, or another version than the known ones; both are named.
        """
        wanted = f"{self.distribution} >= {self.least}, < {self.below} is needed (fleetloop[{self.extra}])"
        found = next(filter(None, map(_version, (self.distribution, *self.builds))), "")
        if not found:
            raise MisconfiguredError(f"{self.distribution} is not installed; {wanted}")
        if not _numbers(self.least) <= _numbers(found) < _numbers(self.below):
            raise MisconfiguredError(f"{self.distribution} {found} is installed; {wanted}")
        return found


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()
