"""Stores, loads, checks and runs published models."""
