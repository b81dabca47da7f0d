"""Configs: what a YAML file may say, checked and laid over each other."""
