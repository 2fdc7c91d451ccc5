"""The HTTP port: handlers, the Flask application and the ASGI application."""
