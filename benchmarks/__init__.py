"""Compares the proxy with what a user would choose instead: `make bench`."""
