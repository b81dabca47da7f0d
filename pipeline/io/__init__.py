"""Files as data, and how a long job says what it is doing."""
