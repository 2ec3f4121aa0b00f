"""The exception that means "the user can mend this"."""


class InputError(Exception):
    """Bad input: says what is wrong, where (file and line, or config key), and what is allowed.

    `main` prints the message alone, without a traceback, and exits with code 2.
    """


class TooLongError(InputError):
    """A text leaves no room in a prompt, or in a row to train on. See config.data.too_long."""


class TryAgainError(Exception):
    """Something else is in the way, a server that does not answer say: the same command goes on later.

    `main` prints the message alone and exits with code 75 (`distributed.TRY_AGAIN`), upon which schedulers restart.
    """
