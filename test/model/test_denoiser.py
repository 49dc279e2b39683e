# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.nn import functional

from diffkd_ros.model.denoiser import EdgeDenoiser, FaithfulDenoiser, GatedBlock
from diffkd_ros.model.modulation import LightweightGatedModulation

CHANNELS = 8


@pytest.fixture(params=['edge', 'faithful'])
def denoiser(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    module = EdgeDenoiser(CHANNELS, 3) if request.param == 'edge' else FaithfulDenoiser(CHANNELS)
    # Not the initial values, with which modulations are identities.
    for name, parameter in module.named_parameters():
        if name.endswith('scale'):
            nn.init.normal_(parameter, std=0.5)
    return module.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    shape = (2, CHANNELS, 8, 12)
    return torch.randn(shape), torch.tensor([400, 20]), torch.randn(shape)


def test_output_has_the_shape_of_the_input(denoiser: nn.Module) -> None:
    noisy, t, condition = inputs()
    assert denoiser(noisy, t, condition).shape == noisy.shape


def test_latent_time_and_condition_all_matter(denoiser: nn.Module) -> None:
    noisy, t, condition = inputs()
    predicted = denoiser(noisy, t, condition)
    for other in ((noisy + 1, t, condition), (noisy, t + 300, condition), (noisy, t, condition + 1)):
        assert (denoiser(*other) - predicted).abs().max() > 1e-3


def test_one_time_for_all_agents_is_that_time_for_each(denoiser: nn.Module) -> None:
    noisy, _, condition = inputs()
    each = denoiser(noisy, torch.tensor([300, 300]), condition)
    torch.testing.assert_close(denoiser(noisy, torch.tensor([300]), condition), each)


def test_every_parameter_gets_a_gradient(denoiser: nn.Module) -> None:
    denoiser(*inputs()).square().sum().backward()
    idle = [n for n, p in denoiser.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_the_faithful_pyramid_is_thirteen_blocks_at_strides_1_2_4() -> None:
    module = FaithfulDenoiser(CHANNELS).eval()
    sizes = []
    for block in module.modules():
        if isinstance(block, GatedBlock):
            block.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[2:])))
    module(*inputs())
    assert sizes == [(8, 12)] * 3 + [(4, 6)] * 5 + [(2, 3)] * 5


def test_modulations_of_a_new_network_are_identities() -> None:
    for module in (
        EdgeDenoiser(CHANNELS, 2),
        FaithfulDenoiser(CHANNELS),
        EdgeDenoiser(CHANNELS, 2, timed=False),
    ):
        blocks = [m for m in module.modules() if isinstance(m, LightweightGatedModulation)]
        assert blocks
        x, condition = torch.randn(1, CHANNELS, 4, 4), torch.randn(1, CHANNELS, 4, 4)
        for block in blocks:
            time = torch.randn(1, CHANNELS) if block.time is not None else None
            assert torch.equal(block(x, condition, time), x)


def test_a_modulation_computes_its_formula() -> None:
    modulation = LightweightGatedModulation(16, 4)
    for parameter in modulation.parameters():
        nn.init.normal_(parameter)
    x, condition, time = torch.randn(3, 16, 6, 5), torch.randn(3, 16, 6, 5), torch.randn(3, 4)
    seen = functional.silu(condition)
    assert modulation.time is not None
    whole = modulation.pooled(seen.mean(dim=(2, 3))) + modulation.time(functional.silu(time))
    gamma, beta, gate = (modulation.local(seen) + whole[:, :, None, None]).chunk(3, dim=1)
    expected = x + modulation.scale * torch.sigmoid(gate) * ((1 + gamma) * modulation.norm(x) + beta)
    torch.testing.assert_close(modulation(x, condition, time), expected, rtol=1e-4, atol=1e-4)


def test_a_modulation_of_constant_maps_by_hand() -> None:
    """One channel a group, constant maps, so the norm gives zero and beta and gate remain."""
    modulation = LightweightGatedModulation(8)
    for layer in (modulation.local[1], modulation.pooled[2]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        modulation.local[1].bias[8:16] = 0.7  # beta
        modulation.local[1].bias[16:] = 1.2  # gate
        modulation.scale.fill_(2.0)
    x = torch.full((1, 8, 3, 3), 5.0)
    expected = 5.0 + 2.0 * torch.sigmoid(torch.tensor(1.2)) * 0.7
    torch.testing.assert_close(
        modulation(x, torch.randn(1, 8, 3, 3)), expected.expand_as(x), atol=1e-3, rtol=0
    )
