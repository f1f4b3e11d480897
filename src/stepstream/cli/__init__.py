"""The `stepstream` command: one file per command, each a thin face on the Python call of the same name."""

from stepstream.cli.app import main

__all__ = ["main"]
