"""The training, validation and test pictures, and where they come from."""
