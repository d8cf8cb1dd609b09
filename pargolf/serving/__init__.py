"""An artifact behind a port: an OpenAI-compatible API, and a page to look at what the model reads and writes."""
