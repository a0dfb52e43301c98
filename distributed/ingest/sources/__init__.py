"""Where rows of a feature store come from."""
