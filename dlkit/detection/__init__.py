"""Scores of anomaly detectors: what they are made of, how they are calibrated, where they alarm."""
