"""What `make run` needs besides."""
