"""Stores in, metrics or tags out."""
