"""Shipped configs: one YAML file an experiment, found by its bare name; and the embedded collection."""
