# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol, version 2, with Triton's extensions."""
