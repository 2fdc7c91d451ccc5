# SPDX-License-Identifier: Apache-2.0
"""The description of the HTTP addresses, as an OpenAPI 3.1 document."""
