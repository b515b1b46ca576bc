"""The version, where both the package's door and its modules can have it."""

__version__ = "0.1.0"
