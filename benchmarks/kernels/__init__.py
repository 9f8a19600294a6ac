"""Attention over scattered queries on a GPU: our kernel beside FlashAttention on the same work."""
