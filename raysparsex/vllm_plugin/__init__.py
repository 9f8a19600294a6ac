"""The only place that knows vLLM: a KV connector that produces what it claims to load."""
