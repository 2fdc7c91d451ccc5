# SPDX-License-Identifier: Apache-2.0
"""The training, validation and test pictures, and where they come from."""
