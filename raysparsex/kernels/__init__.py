"""Device code of our own: attention of queries at scattered positions over a paged cache."""
