"""Where credentials come from: Kubernetes, manifests."""
