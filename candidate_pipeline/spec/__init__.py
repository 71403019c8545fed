"""Reading and checking the TOML that wires plugins together."""
