# SPDX-License-Identifier: Apache-2.0
"""How often a model is right about pictures; needs no TensorFlow."""
