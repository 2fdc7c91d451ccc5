# SPDX-License-Identifier: Apache-2.0
"""The lessons behind Inkling, from a straight line to the served network."""

from inkling_training.tensorflow_import import tensorflow_import

with tensorflow_import():
    import tensorflow  # noqa: F401 - its messages at import are no part of a lesson
