"""The commands, and how a gateway is put together."""
