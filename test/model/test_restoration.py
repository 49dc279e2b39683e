# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.restoration import DiffusionRestoration, cosine_alpha_bar, ddim_times


@pytest.fixture
def restoration() -> DiffusionRestoration:
    torch.manual_seed(0)
    module = DiffusionRestoration(8, 16, 2, start=400, steps=2, height=8, width=12).eval()
    # Away from the identity that training starts at, so that every path shows in the output.
    for name, parameter in module.named_parameters():
        if name.endswith('scale'):
            nn.init.normal_(parameter, std=0.5)
    return module


def test_cosine_schedule_has_its_published_values() -> None:
    alpha_bar = cosine_alpha_bar()
    assert alpha_bar[0].item() == pytest.approx(0.999959, abs=5e-7)
    assert alpha_bar[400].item() == pytest.approx(0.645988, abs=5e-7)
    assert alpha_bar[999].item() == pytest.approx(2.429e-9, rel=1e-3)
    assert (alpha_bar.diff() < 0).all()


def test_time_grid_is_the_usual_ddim_one() -> None:
    assert ddim_times(999, 2) == [999, 499]
    assert ddim_times(400, 1) == [400]
    assert ddim_times(400, 4) == [400, 299, 199, 99]


@pytest.mark.parametrize('steps', [1, 2, 4, 10])
@pytest.mark.parametrize('start', [400, 999])
def test_a_perfect_denoiser_recovers_the_clean_latent(steps: int, start: int) -> None:
    restoration = DiffusionRestoration(8, 16, 1, start, steps, 8, 12)
    clean = torch.randn(3, 16, 4, 6)

    class Oracle(nn.Module):
        def forward(self, noisy: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            return clean

    restoration.denoiser = Oracle()  # type: ignore[assignment]
    sampled = restoration.sample(torch.randn(3, 16, 4, 6), torch.zeros(3, 16, 4, 6))
    torch.testing.assert_close(sampled, clean)


def test_diffusing_keeps_unit_variance_and_ends_in_noise() -> None:
    restoration = DiffusionRestoration(8, 16, 1, 400, 2, 64, 64)
    torch.manual_seed(1)
    clean, noise = torch.randn(2, 16, 32, 32), torch.randn(2, 16, 32, 32)
    for t in (0, 400, 999):
        noisy = restoration.diffuse(clean, torch.full((2,), t), noise)
        assert noisy.var().item() == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(noisy, noise, atol=1e-3, rtol=0)


def test_nothing_changes_where_nothing_was_observed(restoration: DiffusionRestoration) -> None:
    feature, density = torch.rand(2, 8, 8, 12), torch.zeros(2, 1, 8, 12)
    density[:, :, 1, 1] = 1.0
    restored = restoration(feature, density)
    covered = covered_cells(density).bool().expand_as(feature)
    assert torch.equal(restored[~covered], feature[~covered])
    assert not torch.allclose(restored[covered], feature[covered])


def test_an_agents_restoration_does_not_depend_on_the_others(restoration: DiffusionRestoration) -> None:
    feature, density = torch.rand(3, 8, 8, 12), torch.rand(3, 1, 8, 12)
    together = restoration(feature, density)
    for agent in range(3):
        alone = restoration(feature[agent : agent + 1], density[agent : agent + 1])
        torch.testing.assert_close(alone[0], together[agent], atol=1e-5, rtol=1e-4)


def test_two_runs_are_bit_equal(restoration: DiffusionRestoration) -> None:
    feature, density = torch.rand(1, 8, 8, 12), torch.rand(1, 1, 8, 12)
    assert torch.equal(restoration(feature, density), restoration(feature, density))
