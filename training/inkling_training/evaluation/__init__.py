"""How often a model is right about pictures; needs no TensorFlow."""
