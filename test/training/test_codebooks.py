# SPDX-License-Identifier: Apache-2.0
"""What is prepared before the stages of the link."""

import torch
from small_recipe import LINK, first_batch, small_recipe

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.codebook import bits_of, nearest
from diffkd_ros.model.student import Student
from diffkd_ros.training.codebooks import copy_sender, fit_codes, prepare_sender


def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    """Four far centres (4, 3), and cells around them, of which each has half as many as the one before."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]])
    cells = [
        c + 0.1 * torch.randn(n, 3, generator=draw)
        for c, n in zip(centres, (800, 400, 200, 200), strict=True)
    ]
    return centres, torch.cat(cells)


def test_codes_are_the_weighted_means_of_clusters_and_know_their_share() -> None:
    centres, cells = clusters()
    weight = torch.where(torch.arange(len(cells)) < 800, 0.5, 1.0)
    vectors, frequency = fit_codes(cells, weight, 24, 0.0, torch.Generator().manual_seed(1))
    chosen = nearest(cells, vectors, torch.zeros(24))
    assert float((vectors[chosen] - cells).square().sum(dim=1).mean()) < 0.03
    at = torch.cdist(vectors, centres).argmin(dim=1)
    share = torch.stack([frequency[at == k].sum() for k in range(4)])
    torch.testing.assert_close(share, torch.tensor([400, 400, 200, 200]) / 1200)


def test_bits_that_save_little_error_are_not_spent() -> None:
    _, cells = clusters()
    weight = torch.ones(len(cells))

    def spent(rate: float) -> tuple[float, float]:
        vectors, frequency = fit_codes(cells, weight, 24, rate, torch.Generator().manual_seed(1))
        chosen = nearest(cells, vectors, rate * bits_of(frequency))
        error = (vectors[chosen] - cells).square().sum(dim=1).mean()
        return float(bits_of(frequency)[chosen].mean()), float(error)

    (many, small), (few, large) = spent(0.0), spent(1.0)
    # Four clusters have 1.75 bits; the rest describes noise of a variance of 0.03.
    assert many > 3
    assert few < 1.8
    assert small < large < 0.04


def test_a_sender_detects_as_the_student_alone_and_codes_what_the_encoder_gives() -> None:
    recipe = small_recipe('teacher', 'link', model=LINK)
    batch = first_batch(recipe)
    torch.manual_seed(0)
    student, other = Student(recipe.model).eval(), Student(recipe.model)
    with torch.no_grad():
        features, density = student.encoder(batch.agents.points, batch.agents.index, batch.agents.count)
    scale, occupied = student.restoration, covered_cells(density)
    scale.deviation.copy_(features.std(dim=(0, 2, 3), keepdim=True))
    normal = scale.normalise(features)
    prepare_sender(student, [batch])
    assert student.sender is not None
    for key, value in student.head.state_dict().items():
        assert torch.equal(value, student.sender.head.state_dict()[key])
    codec = student.sender.codec
    coded = codec(normal, occupied)
    rest = ((normal - coded.fine.sum(dim=1)) * occupied).square().sum()
    spread = ((normal - normal.mean(dim=(0, 2, 3), keepdim=True)) * occupied).square().sum()
    assert float(rest / spread) < 0.5
    coarse = coded.codes.coarse.flatten().bincount(minlength=8) / coded.codes.coarse.numel()
    torch.testing.assert_close(codec.coarse_frequency, coarse, atol=1e-3, rtol=0)
    assert not codec.coarse_vectors[0].any()
    assert not codec.fine_vectors[0, 0].any()
    torch.testing.assert_close(codec.fine_frequency.sum(dim=1), torch.ones(len(codec.fine_frequency)))
    copy_sender(student, other)
    assert other.sender is not None
    assert torch.equal(other.sender.codec.fine_vectors, codec.fine_vectors)
