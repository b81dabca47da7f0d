"""What a model reads: prompts as tokens, and tokens in batches."""
