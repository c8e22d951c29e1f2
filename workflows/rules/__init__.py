"""Clinical rules: arithmetic on counts and shares; every cut-off is read from `guidelines/`."""
