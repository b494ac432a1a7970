"""The folder that `fleetloop init` makes: where each thing lies, its settings and its parameters."""
