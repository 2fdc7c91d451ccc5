"""Addresses, proxies, and what a server speaks: the same for every command."""
