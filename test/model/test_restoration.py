# SPDX-License-Identifier: Apache-2.0
import math
from typing import Literal

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.denoiser import GatedBlock
from diffkd_ros.model.restoration import (
    LATENT_LIMIT,
    MATCHED_SHARE,
    DiffusionRestoration,
    PlainRestoration,
    Profile,
    Restoration,
    Start,
    TeacherScale,
)
from diffkd_ros.model.student import StudentConfig

STARTS: tuple[Start, ...] = ('truncated', 'pure', 'matched')
CHANNELS, HEIGHT, WIDTH = 8, 8, 12


def make(
    start_from: Start = 'truncated', steps: int = 2, start: int = 400, profile: Profile = 'edge'
) -> DiffusionRestoration:
    torch.manual_seed(0)
    return DiffusionRestoration(CHANNELS, 16, 2, start_from, start, steps, HEIGHT, WIDTH, profile)


def trained(module: Restoration) -> Restoration:
    """Not the initial identity, so that every path changes the output."""
    for name, parameter in module.named_parameters():
        if name.endswith('scale'):
            nn.init.normal_(parameter, std=0.5)
    return module.eval()


@pytest.fixture(params=['edge', 'faithful', 'plain'])
def restoration(request: pytest.FixtureRequest) -> Restoration:
    torch.manual_seed(0)
    if request.param == 'plain':
        return trained(PlainRestoration(CHANNELS, 16, 4))
    return trained(make(profile=request.param))


def observed(agents: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(agents)
    return torch.rand(agents, CHANNELS, HEIGHT, WIDTH), torch.rand(agents, 1, HEIGHT, WIDTH)


@pytest.mark.parametrize('steps', [1, 2, 4, 10])
@pytest.mark.parametrize('start_from', STARTS)
@pytest.mark.parametrize('start', [400, 700])
def test_a_perfect_denoiser_recovers_the_clean_latent(steps: int, start_from: Start, start: int) -> None:
    restoration = make(start_from, steps, start)
    clean = torch.randn(3, 16, 4, 6)
    asked: list[int] = []

    class Oracle(nn.Module):
        def forward(self, noisy: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            asked.append(int(t))
            return clean

    restoration.denoiser = Oracle()
    estimated = restoration.estimate(torch.randn(3, 16, 4, 6), torch.zeros(3, 16, 4, 6))
    assert torch.equal(estimated, clean)
    assert len(asked) == steps
    assert asked[0] == (999 if start_from == 'pure' else start)


@pytest.mark.parametrize('start_from', ['truncated', 'pure'])
def test_the_sampler_stays_on_the_line_between_clean_latent_and_noise(start_from: Start) -> None:
    """With x0 known the noise in x_t is known too, and DDIM carries it to the next time unchanged."""
    restoration = make(start_from, steps=4)
    clean = torch.randn(1, 16, 4, 6)
    noise = restoration.noise.clamp(-2, 2)
    restoration.noise.copy_(noise)
    seen: dict[int, torch.Tensor] = {}

    class Oracle(nn.Module):
        def forward(self, noisy: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            seen[int(t)] = noisy
            return clean

    restoration.denoiser = Oracle()
    # Where the observation is the clean latent, a truncated start is the forward process itself.
    restoration.estimate(clean, torch.zeros_like(clean))
    for t, noisy in seen.items():
        signal = restoration.schedule[t] if (start_from, t) != ('pure', 999) else 0.0
        expected = math.sqrt(signal) * clean + math.sqrt(1 - signal) * noise
        torch.testing.assert_close(noisy, expected, atol=1e-3, rtol=1e-3)


def test_a_pure_start_does_not_depend_on_the_observation() -> None:
    restoration = make('pure')
    one, other = torch.randn(2, 16, 4, 6), torch.randn(2, 16, 4, 6)
    assert torch.equal(restoration.begin(one), restoration.begin(other))
    condition = torch.randn(2, 16, 4, 6)
    assert torch.equal(restoration.estimate(one, condition), restoration.estimate(other, condition))


def test_a_truncated_start_has_the_signal_share_of_its_time() -> None:
    restoration = make('truncated')
    begun = restoration.begin(torch.ones(1, 16, 4, 6))
    torch.testing.assert_close(begun, math.sqrt(0.645988) + math.sqrt(1 - 0.645988) * restoration.noise)


def test_a_matched_start_has_its_initial_share_and_learns_it_per_agent() -> None:
    restoration = make('matched')
    projected = torch.randn(2, 16, 4, 6)
    expected = MATCHED_SHARE * projected + (1 - MATCHED_SHARE) * restoration.noise
    torch.testing.assert_close(restoration.begin(projected), expected)
    assert pytest.approx(0.8) == MATCHED_SHARE
    nn.init.normal_(restoration.share.weight)
    begun = restoration.begin(projected)
    kept = ((begun - restoration.noise) / (projected - restoration.noise)).flatten(1)
    torch.testing.assert_close(
        kept, kept.median(dim=1, keepdim=True).values.expand_as(kept), atol=1e-2, rtol=0
    )
    assert (kept[0].median() - kept[1].median()).abs() > 1e-3
    begun.sum().backward()
    assert restoration.share.weight.grad is not None


def test_diffusing_keeps_unit_variance_and_ends_in_noise() -> None:
    restoration = DiffusionRestoration(8, 16, 1, 'truncated', 400, 2, 64, 64)
    torch.manual_seed(1)
    clean, noise = torch.randn(2, 16, 32, 32), torch.randn(2, 16, 32, 32)
    for t in (0, 400, 999):
        noisy = restoration.diffuse(clean, torch.full((2,), t), noise)
        assert noisy.var().item() == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(noisy, noise, atol=1e-3, rtol=0)


def test_nothing_changes_where_nothing_was_observed(restoration: Restoration) -> None:
    feature, _ = observed(2)
    density = torch.zeros(2, 1, HEIGHT, WIDTH)
    density[:, :, 1, 1] = 1.0
    restored = restoration(feature, density)
    covered = covered_cells(density).bool().expand_as(feature)
    assert torch.equal(restored[~covered], feature[~covered])
    assert not torch.allclose(restored[covered], feature[covered])


def test_an_agents_restoration_does_not_depend_on_the_others(restoration: Restoration) -> None:
    feature, density = observed(3)
    together = restoration(feature, density)
    for agent in range(3):
        alone = restoration(feature[agent : agent + 1], density[agent : agent + 1])
        torch.testing.assert_close(alone[0], together[agent], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('start_from', STARTS)
def test_two_runs_are_bit_equal(start_from: Start) -> None:
    restoration = trained(make(start_from))
    feature, density = observed(1)
    assert torch.equal(restoration(feature, density), restoration(feature, density))


def test_an_untrained_gate_passes_an_eighth_of_the_estimate(restoration: Restoration) -> None:
    feature, density = observed(1)
    normal = restoration.normalise(feature)
    estimate = restoration.estimate(restoration.project(normal), restoration.conditions(feature, density))
    decoded = restoration.from_latent(estimate)
    gate = 1 / (1 + math.exp(2.0))
    torch.testing.assert_close(restoration(feature, density), feature + gate * (decoded - feature))


def test_without_steps_features_are_unchanged() -> None:
    feature, density = observed(2)
    assert torch.equal(make(steps=0)(feature, density), feature)
    assert torch.equal(TeacherScale(CHANNELS)(feature, density), feature)


def test_features_are_standardised_by_the_teachers_scale_and_clamped() -> None:
    scale = TeacherScale(2)
    scale.mean.copy_(torch.tensor([1.0, -2.0]).view(1, 2, 1, 1))
    scale.deviation.copy_(torch.tensor([0.5, 4.0]).view(1, 2, 1, 1))
    feature = torch.tensor([2.0, 6.0]).view(1, 2, 1, 1)
    assert scale.normalise(feature).flatten().tolist() == [2.0, 2.0]
    assert scale.normalise(feature + 100).flatten().tolist() == [LATENT_LIMIT, LATENT_LIMIT]


def test_a_new_autoencoder_of_full_resolution_is_the_identity() -> None:
    restoration = make(profile='faithful')
    latent = torch.randn(1, CHANNELS, HEIGHT, WIDTH)
    assert torch.equal(restoration.from_latent(restoration.to_latent(latent)), latent)


@pytest.mark.parametrize(('steps', 'difference'), [(1, 0.01), (2, 0.06), (4, 0.1)])
def test_plain_restoration_has_the_blocks_and_the_cost_of_the_diffusion(
    steps: int, difference: float
) -> None:
    """Not quite the cost: a sampler's first and last layer run in every step, the placebo's once."""
    grid = (-12.8, -12.8, -3.0, 12.8, 12.8, 1.0)

    def cost(kind: Literal['diffusion', 'plain']) -> tuple[int, int]:
        module = StudentConfig(grid, restoration=kind, steps=steps).make_restoration().eval()
        ran: list[nn.Module] = []
        for block in module.modules():
            if isinstance(block, GatedBlock):
                block.register_forward_hook(lambda block, _, __: ran.append(block))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.rand(1, 32, 32, 32), torch.rand(1, 1, 32, 32))
        return len(ran), counter.get_total_flops()

    (blocks, flops), (blocks_plain, flops_plain) = cost('diffusion'), cost('plain')
    assert blocks == blocks_plain == 6 * steps
    assert flops_plain == pytest.approx(flops, rel=difference)
