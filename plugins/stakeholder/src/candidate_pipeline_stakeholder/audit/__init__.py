"""What a mix of stakeholders does to whom: alignment, sensitivity, frontiers, regret, and a report of it."""
