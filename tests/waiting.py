"""Waiting for what another process does."""

import time


def until(condition, seconds):
    """What a condition gives once that is true; a failure where it is not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come about")
