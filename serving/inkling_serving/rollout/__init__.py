# SPDX-License-Identifier: Apache-2.0
"""How a new version comes to requests: compared as a shadow, and judged by a rule."""
