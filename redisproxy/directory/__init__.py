"""Where snapshots of the directory come from, and the service that keeps the current one."""
