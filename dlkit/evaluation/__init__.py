"""Metrics with intervals, baselines beside them, and the report that holds both."""
