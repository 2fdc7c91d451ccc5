"""The command `inkling`."""
