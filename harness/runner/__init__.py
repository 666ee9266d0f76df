"""The only part that starts processes."""
