# SPDX-License-Identifier: Apache-2.0
import pytest
from torch_threads import one_thread  # noqa: F401 - a fixture that every test here takes

from diffkd_ros.training import curve, loop


@pytest.fixture
def drawn_curve() -> None:
    """Taken by a test that looks at the picture of the curve."""


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no curve in other tests: that takes up to half of a small training."""
    if 'drawn_curve' not in request.fixturenames:
        monkeypatch.setattr(curve, '_draw', lambda path, points: None)


@pytest.fixture(autouse=True)
def few_measured_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's scale from two batches instead of 32."""
    monkeypatch.setattr(loop, 'MEASURED_BATCHES', 2)
