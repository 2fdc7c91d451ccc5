"""Load tests for a gateway; a shell for now."""

__all__ = ["__version__"]

__version__ = "0.1.0"
