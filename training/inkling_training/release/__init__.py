# SPDX-License-Identifier: Apache-2.0
"""Exports, checks, describes and publishes a trained model."""
