"""Under which names the store actors of a cluster are found."""

NAMESPACE = "raysparsex"
"""Ray namespace of the store actors."""


def store_name(node: str) -> str:
    """Name of the store actor of a node, given its Ray node id in hex."""
    return f"segment-store-{node}"
