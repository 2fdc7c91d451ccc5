# SPDX-License-Identifier: Apache-2.0
"""Answers: which are right, and what became of a request."""
