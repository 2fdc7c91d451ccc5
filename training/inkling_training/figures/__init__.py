"""The figures in model cards and evaluation reports."""
