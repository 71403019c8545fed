"""Compiling a pipeline into a plan, and running requests through it."""
