"""Conditions: who answers the held-out items."""
