"""The HTTP scorer on Ray Serve."""
