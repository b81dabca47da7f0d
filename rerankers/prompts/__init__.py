"""Prompts, one YAML file each; `prompts` fills them in, `answers` reads what comes back."""
