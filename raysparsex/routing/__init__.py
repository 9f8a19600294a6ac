"""WHERE a request goes: the replica with the shortest expected time to first token. Pure, but for
`ray_router`."""
