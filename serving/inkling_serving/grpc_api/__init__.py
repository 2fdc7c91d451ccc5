"""The gRPC port: the classifier, its stream, health, and the server."""
