"""Trains image classifiers with Keras, checks their exports, and publishes them."""

__all__ = ["__version__"]

__version__ = "0.1.0"
