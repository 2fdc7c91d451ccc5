"""The client: a classifier behind a gateway, or on this device."""
