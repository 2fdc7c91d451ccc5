"""Servers for comparison: the same model without Inkling, and servers without a model."""
