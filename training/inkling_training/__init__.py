# SPDX-License-Identifier: Apache-2.0
"""Trains, checks, publishes and evaluates image classifiers."""

__all__ = ["__version__"]

__version__ = "0.1.0"
