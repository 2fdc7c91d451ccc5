# SPDX-License-Identifier: Apache-2.0
"""Opens models that somebody else made, and says what they say about themselves."""
