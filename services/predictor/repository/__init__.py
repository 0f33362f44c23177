"""The models of the configured roots: which there are, which are loaded, and what changes."""
