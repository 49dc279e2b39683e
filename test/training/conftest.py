# SPDX-License-Identifier: Apache-2.0
import pytest
from torch_threads import one_thread  # noqa: F401 - a fixture that every test here takes

from diffkd_ros.training import loop


@pytest.fixture(autouse=True)
def few_measured_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's scale from two batches instead of 32."""
    monkeypatch.setattr(loop, 'MEASURED_BATCHES', 2)
