"""The command line: one small file for each command, which parses, calls the pipeline and prints."""
