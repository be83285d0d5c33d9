"""Decides when a tenant is read, and is the only writer of what is published."""
