"""The application layer: typed queries and commands with typed results, and no terminal in them.

The command line and every other surface import this package; it imports no surface.
"""
