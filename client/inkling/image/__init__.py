"""Turns an encoded picture into a model input."""
