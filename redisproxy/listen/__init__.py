"""Where clients connect: endpoints, TLS, certificates."""
