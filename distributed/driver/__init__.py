"""What the process of a job does: start workers, follow them, fit every method, update, search."""
