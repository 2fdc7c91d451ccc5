# SPDX-License-Identifier: Apache-2.0
"""Measures: counts, latencies, and what the gateway says of itself."""
