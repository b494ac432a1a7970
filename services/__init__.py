"""The application layer: typed queries and commands with typed results, independent of the terminal.

The command line and every other surface import this package; it imports no surface.
"""
