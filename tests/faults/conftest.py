"""Scripts that tests start are no tests."""

collect_ignore = ["replicas.py"]
