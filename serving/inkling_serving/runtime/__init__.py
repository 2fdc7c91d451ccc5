# SPDX-License-Identifier: Apache-2.0
"""Threads, processes, sockets and metrics of the gateway's processes."""
