"""Captured requests, ranked again under other settings, and what moved and why."""
