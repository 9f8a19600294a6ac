"""Programs that people would copy; each runs by itself against a running server."""
