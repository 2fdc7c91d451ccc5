# SPDX-License-Identifier: Apache-2.0
"""What operators learn of the gateway beside its counts: its state, and traces."""
