"""Opens models that somebody else made, and says what they say about themselves."""
