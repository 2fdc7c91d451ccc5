"""Figures of a model card and an evaluation, drawn."""
