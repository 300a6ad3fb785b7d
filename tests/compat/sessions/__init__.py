"""Sessions of client libraries, straight to Redis and through the proxy: see `run-sessions`.

- `libraries`: how each library's program is installed and run.
- `outcomes`: what a program printed, how two runs of it differ, and what is known of that.
- `programs/`: one program for each library, in the library's own language.
"""
