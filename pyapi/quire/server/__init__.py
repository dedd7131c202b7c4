"""The OpenAI-compatible server. Nothing else of the package imports it at its own start, so its libraries load late."""
