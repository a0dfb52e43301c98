"""Top k, metrics and ragged tags."""
