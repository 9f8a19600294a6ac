"""How reused KV is made correct: torch only, knows neither vLLM nor Ray."""
