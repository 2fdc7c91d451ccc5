# SPDX-License-Identifier: Apache-2.0
"""Peers: servers with the same model, and servers that only echo, without Inkling."""
