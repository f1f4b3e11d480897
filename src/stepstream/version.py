"""The version, in a room below everything that stores it."""

__version__ = "0.1.0"
