"""Measures: counts, latencies, and what the gateway says of itself."""
