# SPDX-License-Identifier: Apache-2.0
"""Captured requests on disk: their format, their index, and the feedback on them."""
