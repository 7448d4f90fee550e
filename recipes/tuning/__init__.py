"""The hyperparameter search of `tune.py`."""
