"""One module per command.

Each imports heavy libraries inside its functions only, so that `--help` is fast and a vehicle, which has no Beam or
torch, can run its own commands.
"""
