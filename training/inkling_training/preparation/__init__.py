# SPDX-License-Identifier: Apache-2.0
"""Finds out how a given model wants its pictures, and what its scores are called."""
