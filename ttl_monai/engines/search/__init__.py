"""The search for the truncation point: cells in a durable queue, workers, and the ways to search."""
