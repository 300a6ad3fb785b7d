"""Tenants, their credentials, URLs and limits. Pure."""
