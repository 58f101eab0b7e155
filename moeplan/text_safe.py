"""Text that others wrote (model names, files, arguments) as it may reach a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text on one line, with every character that a terminal would act on written out.

    >>> print(printable("NVIDIA\x1b[2J\nH200"))
    NVIDIA\x1b[2J\nH200
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def shortened(text: str, limit: int = 60) -> str:
    """``printable``, quoted and cut to ``limit`` characters.

    >>> shortened("kimi")
    "'kimi'"
    """
    shown = printable(text)
    return f"'{shown if len(shown) <= limit else shown[: limit - 3] + '...'}'"
