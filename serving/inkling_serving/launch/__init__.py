"""The commands `inkling serve` and `inkling up`, and the assembly of a gateway."""
