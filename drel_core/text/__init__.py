"""From the name of a tag to a vector of what it means."""
