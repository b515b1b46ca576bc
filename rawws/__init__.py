"""WebSockets that you can see through."""

__version__ = "0.1.0"

__all__ = ["__version__"]
