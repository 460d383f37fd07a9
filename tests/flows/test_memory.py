"""Freed arrays go back to the system."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import torch
if sys.argv[1] == "settled":
    from flows.memory import settle_allocator
    settle_allocator()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

torch.ones(6 << 20)  # 24 MB: glibc takes smaller arrays from its heap once such a one was freed
before, large, small = resident(), [], []
for _ in range(20):
    large.append(torch.ones(5 << 19))  # 10 MB
    small.append(torch.ones(1 << 18))  # 1 MB: what lies between them keeps the heap as long as it is
del large
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator that is settled is glibc's")
def test_freed_arrays_go_back_to_the_system():
    kept = {}
    for way in ("settled", "left"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True
        )
        kept[way] = int(done.stdout)
    assert kept["left"] > 200e6, "or there would be nothing to settle"
    assert kept["settled"] < kept["left"] / 2


SMALL = """
from flows.memory import give_back, settle_allocator
settle_allocator()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
pieces = [bytearray(100_000) for _ in range(1000)]  # 100 MB, from the heap
kept = pieces[::50]
del pieces
freed = resident() - before
give_back()
print(freed, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps them")
def test_what_lies_free_between_small_arrays_goes_back_when_asked():
    done = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 90e6, "or there would be nothing to give back"
    assert left < 10e6, "a fiftieth is in use"
