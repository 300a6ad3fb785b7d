"""The operator's command, `redisproxy`."""
