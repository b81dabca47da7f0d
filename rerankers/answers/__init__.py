"""Answers: how replies are read."""
