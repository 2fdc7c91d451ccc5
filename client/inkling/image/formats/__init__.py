# SPDX-License-Identifier: Apache-2.0
"""The formats of picture files: how each is read, and its cost before that."""
