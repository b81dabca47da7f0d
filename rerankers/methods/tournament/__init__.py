"""Tournaments: documents meet in groups, the model selects some of each, and what they win makes their score."""
