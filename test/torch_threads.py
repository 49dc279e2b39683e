# SPDX-License-Identifier: Apache-2.0
"""Fixture for tests of small networks on a busy machine."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: for small networks, synchronisation takes longer than threads save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
