"""The load: when requests are due, which requests they are, and their pictures."""
