"""The reviewing page: people write feedback on drafts, and compare systems, in a browser."""
