# SPDX-License-Identifier: Apache-2.0
"""Stores, loads, checks and runs published models."""
