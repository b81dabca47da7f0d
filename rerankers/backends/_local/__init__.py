"""Models of transformers at work: forward passes, scores out of logits, generated text."""
