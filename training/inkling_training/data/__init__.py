"""The pictures to learn from."""
