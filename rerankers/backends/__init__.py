"""Backends: one file for each that a config can name."""
