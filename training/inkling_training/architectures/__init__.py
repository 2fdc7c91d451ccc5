# SPDX-License-Identifier: Apache-2.0
"""Architectures of others: a user's function, and those of `keras.applications`."""
