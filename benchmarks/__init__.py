"""The benchmark of `make bench`: Inkling and other servers with the same model."""
