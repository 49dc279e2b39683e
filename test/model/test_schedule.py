# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from diffkd_ros.model.schedule import cosine_alpha_bar, ddim_times, time_embedding


def test_cosine_schedule_has_its_published_values() -> None:
    alpha_bar = cosine_alpha_bar()
    assert alpha_bar[0].item() == pytest.approx(0.999959, abs=5e-7)
    assert alpha_bar[400].item() == pytest.approx(0.645988, abs=5e-7)
    assert alpha_bar[999].item() == pytest.approx(2.429e-9, rel=1e-3)
    assert (alpha_bar.diff() < 0).all()


def test_the_time_grid_is_evenly_spaced_and_descending() -> None:
    assert ddim_times(999, 2) == [999, 499]
    assert ddim_times(400, 1) == [400]
    assert ddim_times(400, 4) == [400, 299, 199, 99]
    assert ddim_times(400, 0) == []


def test_time_embedding_is_sines_and_cosines_of_decreasing_frequency() -> None:
    embedded = time_embedding(torch.tensor([0, 7]), 8)
    assert torch.equal(embedded[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    expected = [math.sin(7 / 10000 ** (i / 4)) for i in range(4)]
    torch.testing.assert_close(embedded[1, :4], torch.tensor(expected))
    torch.testing.assert_close(embedded.square().sum(dim=1), torch.tensor([4.0, 4.0]))
