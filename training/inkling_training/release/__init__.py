"""Exports, checks, describes and publishes a trained model."""
