"""Servers of models: connections and replicas, what each server can do, and requests in its forms."""
