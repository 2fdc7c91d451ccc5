# SPDX-License-Identifier: Apache-2.0
"""The models, their training and their calibration."""
