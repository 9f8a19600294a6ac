"""Under which names the store actors and the registry of a cluster are found."""

NAMESPACE = "raysparsex"
"""Ray namespace of all of them."""


def store_name(node: str) -> str:
    """Name of the store actor of a node, given its Ray node id in hex."""
    return f"segment-store-{node}"


def registry_name(shard: int) -> str:
    """Name of the registry actor that has this shard of the segments."""
    return f"segment-registry-{shard}"
