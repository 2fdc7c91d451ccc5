# SPDX-License-Identifier: Apache-2.0
"""Finders of an object on paper that look twice."""
