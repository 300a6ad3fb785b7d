"""Decides what a tenant may do, from what a Redis can do. Pure."""
