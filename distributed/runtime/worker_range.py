"""How many workers a run asks for: ``4``, or ``2:8`` for as many of 2 to 8 as the cluster has."""

from __future__ import annotations

from jsonargparse.typing import register_type


class Workers(str):
    """A number, or least and most with a colon. A string, so that YAML and JSON show what was typed.

    Attributes:
        least, most: both 1 or more.

    Raises:
        ValueError: it is neither form.
    """

    least: int
    most: int

    def __new__(cls, given: str | int) -> Workers:
        least, colon, most = str(given).partition(":")
        try:
            ends = int(least), int(most) if colon else int(least)
        except ValueError:
            raise ValueError(
                f"workers is {given!r}; give a number (4), or least and most (2:8)"
            ) from None
        if not 1 <= ends[0] <= ends[1]:
            raise ValueError(
                f"workers is {given}; it must be 1 or more"
                + (", and the first number not above the second" if colon else "")
            )
        self = super().__new__(cls, f"{ends[0]}:{ends[1]}" if colon else str(ends[0]))
        self.least, self.most = ends
        return self

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)

    @property
    def elastic(self) -> bool:
        return self.least < self.most


ONE = Workers(1)

# Plain str or int would be read by YAML's rules first, where 2:8 is 128 (base 60).
register_type(Workers, serializer=str, deserializer=Workers)
