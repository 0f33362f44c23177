"""What was served, of a share of the requests: written as it happened, and read back for training. docs/features-log.md."""
