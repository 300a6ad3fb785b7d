"""Sources of tenants and credentials: the Kubernetes API, or a directory of manifests."""
