"""The same model served as one would without Inkling, and servers that do nothing."""
