# SPDX-License-Identifier: Apache-2.0
"""What runs inside Locust's processes; importing it patches the standard library."""
