"""Who may use what: tenants, credentials, URLs, limits. Pure."""
