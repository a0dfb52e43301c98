"""The parser of a verb, without running the verb: for the reference of options and for checks of docs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from jobs.cli import OneLineParser


class _Parsed(Exception):
    """Ends a verb where its options are parsed."""

    def __init__(self, parser: OneLineParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(verb: str, arguments: Sequence[str] = (), check: bool = False) -> OneLineParser:
    """The parser that ``python -m jobs.VERB`` makes.

    A verb makes its parser in ``main``, since defaults depend on arguments (``--preset``). So it is run up to
    the place where it parses.

    Args:
        arguments: what follows the verb.
        check: parse them as well.

    Raises:
        SystemExit: code 2, an argument is wrong; a line on stderr says which.
        InputError: the same, where the verb looks before it parses.
    """
    parse = OneLineParser.parse_args

    def parsed(self: OneLineParser, args: Any = None, *rest: Any, **options: Any) -> Any:
        if check:
            parse(self, args, *rest, **options)
        raise _Parsed(self)

    main = importlib.import_module(f"jobs.{verb}").main
    with patch.object(OneLineParser, "parse_args", parsed):
        try:
            main(list(arguments))
        except _Parsed as found:
            return found.parser
    raise AssertionError(f"jobs.{verb} parses nothing")
