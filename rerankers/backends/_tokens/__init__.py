"""Prompts as tokens, and tokens in batches."""
