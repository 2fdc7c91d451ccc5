# SPDX-License-Identifier: Apache-2.0
"""Other people's protocols over the same service."""
