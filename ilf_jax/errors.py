"""The exception that means "the user can mend this"."""


class InputError(Exception):
    """Bad input: says what is wrong, where (file and line, or config key), and what is allowed.

    `main` prints the message alone, without a traceback, and exits with code 2.
    """


class WaitingError(Exception):
    """The run waits for people: nothing is wrong, and the message says what they are to do.

    `main` prints the message alone and exits with code 4; the same command goes on once they have done it.
    """


class TooLongError(InputError):
    """A text leaves no room in a prompt, or in a row to train on. See config.data.too_long."""
