"""From pictures, arrays and published distributions to a feature store."""
