"""TensorFlow Serving's protocol over the same service."""
