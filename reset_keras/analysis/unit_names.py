def unit_names(num_scores: int, zero_unit: bool) -> list[str]:
    """Names of a module's units in figures, in the order of their scores: from 1 on, and `"zero"` for the last.

    Args:
        num_scores: Integer, length of a vector of scores.
        zero_unit: Boolean, whether the last of them is the zero unit's.

    Examples:
        >>> unit_names(4, zero_unit=True)
        ['1', '2', '3', 'zero']
    """
    names = [str(index + 1) for index in range(num_scores)]
    return [*names[:-1], "zero"] if zero_unit else names
