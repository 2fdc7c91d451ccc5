# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's messages, and arrays from and to its tensors."""
