"""An embedded Redis and the quick start, for `make run`."""
