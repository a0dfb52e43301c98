"""Towers, tag embeddings and the pooled training step."""
