"""Make `python -m fleetloop` the same as `fleetloop`: no module of the working folder hides one of FleetLoop's."""

import sys
from pathlib import Path

if not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from fleetloop.cli import main

main()
