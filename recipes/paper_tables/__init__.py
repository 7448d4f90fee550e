"""The paper's tables, and one of systems: their rows, the runs that make them, and their files."""
