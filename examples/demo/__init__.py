"""`make demo`: one agent graph, served by RaySparseX and by plain vLLM, side by side."""
