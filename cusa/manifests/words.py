"""Numbers in sentences."""


def counted(number: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 group`, `2 groups`, `1,200 images`, `1 query`.

    Args:
        number: a whole one.
        noun: of one.
        plural: of any other number; the noun with an s if empty.
    """
    return f"{number:,.0f} {noun if number == 1 else plural or noun + 's'}"
