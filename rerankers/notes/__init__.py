"""Notes that are computed from texts, without a model: one function a file, `(query, passages, options…) -> text`."""
