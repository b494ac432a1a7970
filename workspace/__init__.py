"""The workspace, the folder that `fleetloop init` creates: its layout, its settings and its parameters."""
