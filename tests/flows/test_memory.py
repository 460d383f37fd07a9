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
