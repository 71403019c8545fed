"""From predictions to a score, and what changes a score."""
