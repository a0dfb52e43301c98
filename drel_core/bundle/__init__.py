"""The model bundle on disk."""
