"""The paper's tables: their rows, the runs that make them, and the files that they are written to."""
