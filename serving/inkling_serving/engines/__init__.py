"""The engines that run the models: in this process, or behind the network."""
