"""From an encoded picture to what a model is given."""
