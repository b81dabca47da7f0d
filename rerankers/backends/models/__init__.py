"""Checkpoints: found, loaded and laid out on devices."""
