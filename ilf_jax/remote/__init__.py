"""Models behind OpenAI-compatible endpoints: what the rest of the package asks them, and how."""
