# SPDX-License-Identifier: Apache-2.0
"""Addresses, proxies, and what a server speaks: the same for every command."""
