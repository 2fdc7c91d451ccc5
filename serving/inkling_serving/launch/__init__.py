# SPDX-License-Identifier: Apache-2.0
"""The commands `inkling serve` and `inkling up`, and the assembly of a gateway."""
