"""Who serves: this process, or several."""
