"""Answers: which are right, and what became of a request."""
