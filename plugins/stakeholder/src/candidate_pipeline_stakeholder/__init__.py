"""Learns what stakeholders prefer from pairs, scores a feed by a declared mix of them, and audits the result."""
