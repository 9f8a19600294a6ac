"""WHAT to compute: a prompt cut into spans that are reused and spans that are new."""
