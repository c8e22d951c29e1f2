"""See model.json."""
