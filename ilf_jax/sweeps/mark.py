"""Marks a cell as complete where `echo TEXT > FILE` cannot, in a bucket: python -m ilf_jax.sweeps.mark FILE TEXT."""

import sys

from ilf_jax.runtime import storage
from ilf_jax.runtime.files import write_atomically


def main(file: str, text: str) -> None:
    """Writes the text and a line break. Raises InputError if it cannot."""
    write_atomically(storage.path(file), f"{text}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
