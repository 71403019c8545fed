"""Drawings of pipelines: how a plan becomes a graph, and a graph Mermaid, DOT or a tree."""
