"""Other people's protocols over the same service."""
