# SPDX-License-Identifier: Apache-2.0
"""The content of a request: its pictures and its options, in each form of a body."""
