"""See quire.entrypoints.openai.api_server."""
