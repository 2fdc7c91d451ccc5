# SPDX-License-Identifier: Apache-2.0
"""The HTTP port: handlers, the Flask application and the ASGI application."""
