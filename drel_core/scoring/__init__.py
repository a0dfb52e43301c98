"""Top k, metrics, and tag lists of images."""
