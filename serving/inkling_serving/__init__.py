# SPDX-License-Identifier: Apache-2.0
"""The gateway: classifies pictures for callers, with an engine that runs the models."""

__all__ = ["__version__"]

__version__ = "0.1.0"
