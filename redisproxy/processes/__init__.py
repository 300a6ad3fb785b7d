"""The processes that serve clients: this one, or a parent and several workers."""
