"""The model bundle on disk: writing, finding, checking and reading it."""
