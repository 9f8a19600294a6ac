"""WHAT a model needs: sample prompts, measured drift, the cheapest correction, and its file.

Knows no engine: `measure` asks one through a protocol, and `vllm_plugin.offline_engine` is one.
"""
