"""Adopting objects that another operator made."""
