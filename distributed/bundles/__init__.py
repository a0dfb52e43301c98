"""Model bundles wherever they lie: found, opened, written."""
