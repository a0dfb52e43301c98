"""A model for use without this project."""
