"""Peers: servers with the same model but without Inkling, and servers that only echo."""
