"""What runs a model: in this process, or behind the network."""
