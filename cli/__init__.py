"""What a person types: one small file a command; parse, call the pipeline, print."""
