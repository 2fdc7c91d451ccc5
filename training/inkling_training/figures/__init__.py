# SPDX-License-Identifier: Apache-2.0
"""The figures in model cards and evaluation reports."""
