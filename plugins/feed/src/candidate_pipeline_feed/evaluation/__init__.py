"""Offline evaluation: the split shared with training, baselines, metrics, intervals, and the `evaluate` command."""
