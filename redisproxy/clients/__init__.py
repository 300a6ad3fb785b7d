"""The clients' side: connections, admission, the end."""
