"""Following a config as it changes, without a request noticing."""
