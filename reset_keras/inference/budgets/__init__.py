"""A network's budgets: what it says at every depth, which depth and threshold a requested compute fraction takes."""
