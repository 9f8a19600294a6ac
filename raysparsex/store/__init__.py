"""The KV bytes of segments: where they are kept, under their ids."""
