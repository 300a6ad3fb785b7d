"""What an operator sees: log lines and their format."""
