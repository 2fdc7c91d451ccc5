# SPDX-License-Identifier: Apache-2.0
"""The side-car: retrains a served model from the feedback on it."""
