"""A reward for `config.score.method` that keeps a run in its score stage for as long as the file $HOLD exists."""

import os
import pathlib
import time

_LIMIT_SECONDS = 300


def reward(document: str, draft: str, feedback: str, refinement: str) -> float:
    hold, end = pathlib.Path(os.environ.get("HOLD", "no such file")), time.monotonic() + _LIMIT_SECONDS
    while hold.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{hold} still exists")
        time.sleep(0.1)
    return float(len(refinement))
