"""A simulation of the whole proxy: see `simulation`."""
