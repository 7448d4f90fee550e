"""The order of all tests."""

LONGEST = "test_recipes.py"


def pytest_collection_modifyitems(items):
    """The longest file goes first, or one process would be left with it at the end: pytest-xdist keeps this order."""
    items.sort(key=lambda item: item.path.name != LONGEST)
