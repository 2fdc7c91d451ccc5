"""TensorFlow Serving's messages, and arrays from and to its tensors."""
