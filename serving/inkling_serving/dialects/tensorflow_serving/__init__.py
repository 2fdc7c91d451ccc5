# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's protocol over the same service."""
