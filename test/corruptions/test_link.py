# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from diffkd_ros.corruptions import CorruptionError, Link, LinkConditions, open_link
from diffkd_ros.corruptions.payload import cap_bytes, lose_tiles, quantise, raw_size
from diffkd_ros.runtime.codec import encode
from diffkd_ros.runtime.features import BevFeature

PERIOD = 100_000_000  # nanoseconds
SHARES = [(1, 0.1), (2, 0.3), (3, 0.5), (4, 0.7), (5, 0.9)]


@dataclass(frozen=True, slots=True)
class Note:
    """A small map with a remark that must arrive unchanged."""

    feature: np.ndarray
    density: np.ndarray
    remark: object


def random_map(seed: int = 0, channels: int = 4, height: int = 20, width: int = 30) -> BevFeature:
    rng = np.random.default_rng(seed)
    density = np.where(rng.random((height, width)) < 0.6, rng.exponential(1.0, (height, width)), 0.0)
    feature = rng.normal(0, 1, (channels, height, width)) * (density > 0)
    return BevFeature(feature.astype(np.float32), density.astype(np.float32))


TINY = random_map(height=2, width=3)


def survivors(link: Link, messages: int) -> np.ndarray:
    """Which of a number of messages arrive."""
    for k in range(messages):
        link.send(k * PERIOD, TINY)
    arrived = np.zeros(messages, bool)
    for arrival in link.receive(messages * PERIOD * 10):
        arrived[arrival.stamp // PERIOD] = True
    assert link.sent == messages
    assert link.lost == messages - arrived.sum()
    return arrived


def test_a_perfect_link_delivers_everything_at_once_and_unchanged():
    link: Link = Link(LinkConditions(), 0, 'drive', 2)
    note = Note(TINY.feature, TINY.density, remark=object())
    link.send(5, note)
    assert link.receive(4) == []
    (arrival,) = link.receive(5)
    assert (arrival.stamp, arrival.at) == (5, 5)
    assert arrival.payload is note
    assert link.receive(6) == []
    assert link.newest(6) is arrival


@pytest.mark.parametrize(('severity', 'share'), [(1, 0.1), (2, 0.3), (3, 0.5)])
def test_messages_are_lost_independently_with_their_share(severity, share):
    arrived = survivors(open_link('message_loss', severity, 0, 'drive', 2), 2500)
    assert (~arrived).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 2500))
    both = (~arrived[1:] & ~arrived[:-1]).mean()
    assert both == pytest.approx(share**2, abs=0.03)


@pytest.mark.parametrize(('severity', 'share'), [(1, 0.1), (2, 0.3), (3, 0.5)])
def test_bursts_have_their_share_and_their_length(severity, share):
    arrived = np.concatenate(
        [survivors(open_link('burst_loss', severity, seed, 'drive', 2), 250) for seed in range(40)]
    )
    assert (~arrived).mean() == pytest.approx(share, abs=0.04)
    edges = np.diff(np.concatenate([[0], ~arrived, [0]]).astype(int))
    lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    assert lengths.mean() == pytest.approx(5.0, rel=0.2)


@dataclass(frozen=True, slots=True)
class Chunks:
    """A message of chunks with a remark that must arrive unchanged."""

    chunks: list[int]
    remark: object


def surviving_chunks(link: Link, messages: int, each: int = 5) -> np.ndarray:
    """Which of the chunks of messages arrive, in the order in which they were sent."""
    arrived = np.zeros((messages, each), bool)
    for k in range(messages):
        link.send(k * PERIOD, Chunks(list(range(each)), k))
    for arrival in link.receive(messages * PERIOD):
        assert arrival.payload.remark == arrival.stamp // PERIOD
        assert arrival.payload.chunks == sorted(arrival.payload.chunks)
        arrived[arrival.payload.remark, arrival.payload.chunks] = True
    # A message without any chunk is as good as lost.
    assert link.lost == (~arrived).all(axis=1).sum()
    return arrived.ravel()


@pytest.mark.parametrize(('severity', 'share'), SHARES)
def test_chunks_are_lost_independently_with_their_share(severity, share):
    arrived = surviving_chunks(open_link('chunk_loss', severity, 0, 'drive', 2), 600)
    assert (~arrived).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 3000))
    assert (~arrived[1:] & ~arrived[:-1]).mean() == pytest.approx(share**2, abs=0.03)


@pytest.mark.parametrize(('severity', 'share'), SHARES)
def test_bursts_of_chunks_go_on_in_the_next_message(severity, share):
    arrived = np.concatenate(
        [surviving_chunks(open_link('chunk_burst', severity, seed, 'drive', 2), 200) for seed in range(20)]
    )
    assert (~arrived).mean() == pytest.approx(share, abs=0.06)
    edges = np.diff(np.concatenate([[0], ~arrived, [0]]).astype(int))
    lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    assert lengths.mean() == pytest.approx(10.0, rel=0.25)


def test_what_is_lost_at_a_share_is_lost_at_a_higher_one():
    arrived = [surviving_chunks(open_link('chunk_loss', k, 0, 'drive', 2), 50) for k in (1, 3, 5)]
    for low, high in pairwise(arrived):
        assert not (high & ~low).any()


@pytest.mark.parametrize('share', ['burst_loss', 'chunk_burst'])
def test_bursts_that_cannot_make_up_the_loss_are_refused(share):
    with pytest.raises(CorruptionError, match='cannot make up 90%'):
        LinkConditions(**{share: 0.9}, burst_length=2.0)
    assert not survivors(Link(LinkConditions(burst_loss=1.0), 0, '', 2), 50).any()


@pytest.mark.parametrize(('severity', 'delay'), [(1, 0.1), (2, 0.2), (3, 0.4)])
def test_messages_arrive_with_the_delay_and_its_jitter(severity, delay):
    link = open_link('delay', severity, 0, 'drive', 2)
    for k in range(1500):
        link.send(k * PERIOD, TINY)
    arrivals = link.receive(10**13)
    late = np.array([arrival.at - arrival.stamp for arrival in arrivals]) / 1e9
    assert len(arrivals) == 1500
    assert late.mean() == pytest.approx(delay, rel=0.02)
    assert late.std() == pytest.approx(0.2 * delay, rel=0.1)
    assert late.min() >= 0
    times = [arrival.at for arrival in arrivals]
    assert times == sorted(times)


def test_a_message_that_was_overtaken_does_not_replace_a_newer_one():
    def fresh() -> Link:
        return Link(LinkConditions(delay=0.3, jitter=0.15), 1, 'drive', 2)

    step_by_step, at_the_end, newest = fresh(), fresh(), []
    for k in range(300):
        for link in (step_by_step, at_the_end):
            link.send(k * PERIOD, TINY)
        arrival = step_by_step.newest(k * PERIOD)
        newest.append(arrival.stamp if arrival else -1)
    arrivals = at_the_end.receive(10**12)
    stamps = [arrival.stamp for arrival in arrivals]
    assert stamps != sorted(stamps)
    assert newest == [
        max((arrival.stamp for arrival in arrivals if arrival.at <= k * PERIOD), default=-1)
        for k in range(300)
    ]


def test_stamps_and_times_must_increase():
    link: Link = Link(LinkConditions(), 0, '', 2)
    link.send(10, TINY)
    with pytest.raises(CorruptionError, match='stamp 10 sent after that of 10'):
        link.send(10, TINY)
    link.receive(20)
    with pytest.raises(CorruptionError, match='until 19 after those until 20'):
        link.newest(19)


def test_draws_of_chunks_depend_on_seed_scenario_and_sender():
    keys = [(0, 'drive', 2), (0, 'drive', 2), (1, 'drive', 2), (0, 'lane', 2), (0, 'drive', 3)]
    first, *others = (surviving_chunks(open_link('chunk_burst', 3, *key), 40) for key in keys)
    assert [(first == other).all() for other in others] == [True, False, False, False]


@pytest.mark.parametrize('name', ['message_loss', 'burst_loss', 'tile_loss', 'delay'])
def test_a_links_draws_depend_on_seed_scenario_and_sender(name):
    def history(seed: int, scenario: str, sender: int) -> list[tuple[int, int, bytes]]:
        link = open_link(name, 3, seed, scenario, sender)
        for k in range(40):
            link.send(k * PERIOD, random_map(k))
        return [(a.stamp, a.at, a.payload.density.tobytes()) for a in link.receive(10**12)]

    base = history(0, 'drive', 2)
    assert history(0, 'drive', 2) == base
    others = [history(1, 'drive', 2), history(2, 'drive', 2), history(0, 'lane', 2), history(0, 'drive', 3)]
    assert all(other != base for other in others)


def test_other_fields_of_a_message_arrive_unchanged():
    link = open_link('tile_loss', 3, 0, 'drive', 2, tile=1)
    remark = object()
    link.send(0, Note(TINY.feature, TINY.density, remark))
    payload = link.receive(0)[0].payload
    assert payload.remark is remark
    assert isinstance(payload, Note)
    assert payload.density.shape == TINY.density.shape


@pytest.mark.parametrize(('severity', 'share'), [(1, 0.1), (2, 0.3), (3, 0.5)])
def test_tiles_are_lost_whole_with_their_share(severity, share):
    link = open_link('tile_loss', severity, 0, 'drive', 2)
    density = np.ones((64, 128), np.float32)
    for k in range(30):
        link.send(k, BevFeature(np.ones((2, 64, 128), np.float32), density))
    lost = []
    for arrival in link.receive(100):
        tiles = arrival.payload.density.reshape(8, 8, 16, 8).transpose(0, 2, 1, 3).reshape(128, 64)
        assert set(np.unique(tiles.mean(axis=1))) <= {0.0, 1.0}
        np.testing.assert_array_equal(arrival.payload.feature[1], arrival.payload.density)
        lost.append((tiles.mean(axis=1) == 0).mean())
    assert np.mean(lost) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / (30 * 128)))


def test_tiles_at_the_border_may_be_cut_off():
    bev = random_map(height=13, width=7)
    feature, density = lose_tiles(bev.feature, bev.density, np.random.default_rng(0), 0.0, 5)
    np.testing.assert_array_equal(feature, bev.feature)
    np.testing.assert_array_equal(density, bev.density)
    assert not lose_tiles(bev.feature, bev.density, np.random.default_rng(0), 1.0, 5)[1].any()


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_quantisation_errs_by_half_a_step_at_most(bits):
    bev = random_map()
    feature, density = quantise(bev.feature, bev.density, bits)
    step = np.abs(bev.feature).max(axis=(1, 2), keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(feature - bev.feature) <= step / 2 * (1 + 1e-5)).all()
    assert max(len(np.unique(channel)) for channel in feature) <= 2**bits - 1
    assert (feature[bev.feature == 0] == 0).all()
    np.testing.assert_array_equal(density, bev.density)
    zero = np.zeros_like(bev.feature)
    np.testing.assert_array_equal(quantise(zero, bev.density, bits)[0], zero)


def test_the_codec_adds_no_error_to_eight_bits():
    bev = random_map()
    feature, density = quantise(bev.feature, bev.density, 8)
    np.testing.assert_allclose(encode(BevFeature(feature, density)).scales, encode(bev).scales, rtol=1e-6)


def real_size(feature: np.ndarray, density: np.ndarray) -> int:
    encoded = encode(BevFeature(feature, density))
    return len(encoded.data) + encoded.scales.nbytes


@pytest.mark.parametrize('size_of', [None, real_size])
@pytest.mark.parametrize('budget', [100, 400, 900])
def test_the_strongest_cells_that_fit_a_budget_are_kept(size_of, budget):
    bev = random_map()
    feature, density = cap_bytes(bev.feature, bev.density, budget, size_of=size_of)
    kept = density > 0
    cells = int(kept.sum())
    assert 0 < cells < (bev.density > 0).sum()
    strength = np.linalg.norm(bev.feature, axis=0)
    assert strength[kept].min() >= strength[(bev.density > 0) & ~kept].max()
    np.testing.assert_array_equal(feature, bev.feature * kept)
    if size_of is None:
        assert raw_size(cells, *bev.feature.shape) <= budget < raw_size(cells + 1, *bev.feature.shape)
    else:
        assert real_size(feature, density) <= budget


def test_the_size_before_compression_is_the_codecs():
    bev = random_map()
    inside = int(((bev.density > 0) | bev.feature.any(axis=0)).sum())
    layout = (20 * 30 + 7) // 8 + inside * (4 + 1) + 4 * 4
    assert raw_size(inside, 4, 20, 30) == layout
    assert raw_size(inside, 4, 20, 30, bits=4) == layout - inside * 2


def test_a_budget_for_all_cells_or_for_none():
    bev = random_map()
    assert cap_bytes(bev.feature, bev.density, 1e6)[0] is bev.feature
    feature, density = cap_bytes(bev.feature, bev.density, 0)
    assert not feature.any()
    assert not density.any()


def test_bandwidth_becomes_bytes_by_the_period():
    bev = random_map(channels=32, height=64, width=128)
    link = open_link('bandwidth', 3, 0, 'drive', 2)
    link.send(0, bev)
    kept = int((link.receive(0)[0].payload.density > 0).sum())
    budget = 2.0e6 / 8 * 0.1
    assert raw_size(kept, 32, 64, 128) <= budget < raw_size(kept + 1, 32, 64, 128)


def test_invalid_feature_maps_are_refused():
    link = open_link('quantisation', 1, 0, 'drive', 2)
    with pytest.raises(CorruptionError, match=r'got \(4, 20, 30\) and \(30, 20\)'):
        link.send(0, BevFeature(random_map().feature, random_map().density.T))


def test_of_two_limits_the_smaller_counts():
    assert LinkConditions(bandwidth=2.0, message_bytes=4000).budget == 4000
    assert LinkConditions(bandwidth=0.16, message_bytes=4000).budget == pytest.approx(2000)
    assert LinkConditions(message_bytes=0).budget == 0
    assert LinkConditions().budget is None


@pytest.mark.parametrize(
    'wrong',
    [
        {'tile_loss': 1.1},
        {'chunk_loss': -0.1},
        {'message_bytes': -1},
        {'delay': -1.0},
        {'bits': 1},
        {'bandwidth': float('inf')},
        {'tile': 0},
    ],
)
def test_impossible_conditions_are_refused(wrong):
    with pytest.raises(CorruptionError, match=next(iter(wrong))):
        LinkConditions(**wrong)
