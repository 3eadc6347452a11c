"""Tuning, fitting, calibration, evaluation and cards."""
