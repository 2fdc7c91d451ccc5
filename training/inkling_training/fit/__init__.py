"""The models, their training and their calibration."""
