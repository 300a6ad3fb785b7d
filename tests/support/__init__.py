"""Real parts for tests: Redis servers, the proxy as a process, an API server, and waits that do not
sleep blindly.
"""
