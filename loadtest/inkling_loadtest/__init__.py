# SPDX-License-Identifier: Apache-2.0
"""Load tests for a gateway of Inkling, run by Locust."""

__all__ = ["__version__"]

__version__ = "0.1.0"
