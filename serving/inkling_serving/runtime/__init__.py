"""Threads, processes, sockets and metrics of the gateway's processes."""
