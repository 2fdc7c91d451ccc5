"""Peers: servers with the same model, and servers that only echo, without Inkling."""
