"""What several tests of the networks share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """One thread of torch: two of them on small tensors mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
