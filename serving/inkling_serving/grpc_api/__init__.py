# SPDX-License-Identifier: Apache-2.0
"""The gRPC port: the classifier, its stream, health, and the server."""
