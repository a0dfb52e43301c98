"""Exporting a model for use without this project."""
