# SPDX-License-Identifier: Apache-2.0
"""Captures a share of the pictures and answers on disk, and takes feedback on them."""
