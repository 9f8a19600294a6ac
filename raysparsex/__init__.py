"""RaySparseX: segment-level KV reuse for agents that share text, on Ray and vLLM.

Importing this package loads neither torch, ray nor vllm; each adapter does that for itself.
"""

__version__ = "0.1.0"
