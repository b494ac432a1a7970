"""`python -m fleetloop` is the same as `fleetloop`."""

from fleetloop.cli import main

main()
