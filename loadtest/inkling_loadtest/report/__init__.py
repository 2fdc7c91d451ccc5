# SPDX-License-Identifier: Apache-2.0
"""The report: assembled, drawn, written and compared."""
