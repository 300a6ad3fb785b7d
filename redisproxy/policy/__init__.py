"""What a tenant may do, and what a Redis can do. Pure."""
