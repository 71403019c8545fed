"""The rules that drop posts."""
