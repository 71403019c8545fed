"""Ranked feeds of posts: the four-table format, data sets, and the feed's own pipeline components."""
