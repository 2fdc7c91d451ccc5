# SPDX-License-Identifier: Apache-2.0
"""The client: a classifier behind a gateway, over gRPC or HTTP, or on this device."""
