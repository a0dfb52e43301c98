"""The one exception that means "the user's input is wrong"."""


class InputError(ValueError):
    """Bad input from the user: jobs print it as one line on stderr and exit with code 2.

    The message says what was given, what is allowed and what to change.
    """
