# SPDX-License-Identifier: Apache-2.0
"""Turns an encoded picture into a model input."""
