# SPDX-License-Identifier: Apache-2.0
"""The handlers of the HTTP addresses of other people's protocols."""
