"""Real parts for the tests: Redis servers, the proxy as a process, an API server, waiting without
sleeping blindly.
"""
