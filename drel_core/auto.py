"""The value of an option that leaves the choice to a rule."""

AUTO = -1
"""Given for a number that is never negative: it follows from the size of the data."""
