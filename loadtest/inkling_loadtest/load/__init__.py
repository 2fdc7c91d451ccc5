# SPDX-License-Identifier: Apache-2.0
"""The load: when requests are due, which requests they are, and their pictures."""
