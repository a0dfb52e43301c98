"""Exceptions that jobs show as one line: the user's input is wrong, or a training came to nothing."""


class InputError(ValueError):
    """Bad input from the user: jobs print it as one line on stderr and exit with code 2.

    The message says what was given, what is allowed and what to change.
    """


class TooLargeError(InputError):
    """A method cannot do this store here: it would need more memory than there is, or more time than allowed.
    jobs.compare leaves the method out and goes on.
    """


class Diverged(RuntimeError):
    """Training ended in values that are no numbers: jobs print it as one line and exit with code 1.

    The message says what to change. Trying again from a checkpoint does not help.
    """
