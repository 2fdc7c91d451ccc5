# SPDX-License-Identifier: Apache-2.0
"""The benchmark of `make bench`: Inkling and other servers with the same model."""
