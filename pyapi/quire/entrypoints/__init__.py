"""Programs by the names that vLLM gives them."""
