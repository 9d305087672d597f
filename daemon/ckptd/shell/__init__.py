"""The effects, one resource a module."""
