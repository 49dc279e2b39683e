# SPDX-License-Identifier: Apache-2.0
"""Packing a sweep into chunks, and unpacking any of them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layered_map import SweepCodes, link_arrays, link_tables, random_codes, without_boxes

from diffkd_ros.frame import Boxes3D
from diffkd_ros.runtime.card import ModelError
from diffkd_ros.runtime.link.boxes import BOX_BYTES
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.packing import MOST_CHUNKS, Packer
from diffkd_ros.runtime.link.tables import LinkTables
from diffkd_ros.runtime.link.unpacking import MOST_BOXES, Unpacker

TABLES = link_tables()
CODES = random_codes(TABLES)
ALL = 10**6


def sent(tables: LinkTables, codes: SweepCodes, budget: int = ALL, overhead: int = 0) -> list[bytes]:
    return Packer(tables).pack(codes.outgoing(tables), budget, overhead)


def received(tables: LinkTables, chunks: list[bytes]) -> ReceivedMap:
    result = Unpacker(tables).unpack(chunks)
    assert result.refused == ()
    assert sum(result.bytes_of.values()) == sum(map(len, set(chunks)))
    return result


def assert_true(result: ReceivedMap, codes: SweepCodes) -> None:
    """What arrived is what was sent, and only whole tiles arrive."""
    arrived = result.coarse >= 0
    np.testing.assert_array_equal(result.coarse[arrived], codes.coarse[arrived])
    expected = codes.fine.astype(np.int16)
    expected[1:, expected[0] == 0] = 0
    arrived = result.fine >= 0
    np.testing.assert_array_equal(result.fine[arrived], expected[arrived])
    assert not (arrived[1:] & ~arrived[:-1]).any()
    height, width = arrived.shape[1:]
    tiles = arrived.reshape(-1, height // 4, 4, width // 4, 4)
    np.testing.assert_array_equal(tiles.any(axis=(2, 4)), tiles.all(axis=(2, 4)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(4, 4), (4, 40), (32, 16), (64, 128)]),
    levels=st.integers(1, 3),
    empty=st.sampled_from([0.0, 0.5, 1.0]),
    boxes=st.sampled_from([0, 1, 20, 150]),
)
def test_with_a_large_budget_everything_arrives(seed, shape, levels, empty, boxes):
    tables = link_tables(*shape, levels=levels)
    codes = random_codes(tables, seed, boxes, empty)
    result = received(tables, sent(tables, codes))
    assert_true(result, codes)
    assert len(result.boxes) == boxes
    assert (result.coarse >= 0).all()
    assert (result.fine[:, codes.fine[0] > 0] >= 0).all()
    feature = result.feature(tables)
    assert (feature.level == 1).all()
    np.testing.assert_array_equal(feature.known_empty, codes.fine[0] == 0)
    vectors = tables.fine_vectors
    expected = sum(vectors[k][codes.fine[k]] for k in range(levels)) * (codes.fine[0] > 0)[..., None]
    np.testing.assert_allclose(feature.feature, expected.transpose(2, 0, 1), atol=1e-5)


def test_every_subset_of_chunks_decodes_to_the_union_of_its_parts():
    chunks = sent(TABLES, CODES, 4000)
    assert len(chunks) == 4
    # The last one is too small.
    assert [len(received(TABLES, [chunk]).boxes or ()) for chunk in chunks] == [20, 14, 14, 0]
    alone = [received(TABLES, [chunk]) for chunk in chunks]
    for count in range(len(chunks) + 1):
        for places in itertools.combinations(range(len(chunks)), count):
            result = received(TABLES, [chunks[place] for place in places])
            assert_true(result, CODES)
            lists = [alone[place].boxes for place in places if alone[place].boxes is not None]
            assert len(result.boxes or ()) == max(map(len, lists), default=0)
            assert result.partial == (0 not in places and len(lists) > 0)
            for name in ('coarse', 'fine'):
                parts = [getattr(alone[place], name) for place in places]
                nothing = np.full_like(getattr(result, name), -1)
                np.testing.assert_array_equal(getattr(result, name), np.max([nothing, *parts], axis=0))


def test_neither_order_nor_repeated_chunks_matter():
    chunks = sent(TABLES, CODES, 4000)
    first, second = received(TABLES, chunks), received(TABLES, chunks[::-1] + chunks[1:3])
    for name in ('coarse', 'fine'):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(first.boxes.boxes, second.boxes.boxes)
    assert first.bytes_of == second.bytes_of


def test_of_two_sweeps_the_result_does_not_depend_on_the_order():
    chunks = sent(TABLES, CODES, 3000) + sent(TABLES, random_codes(TABLES, 1), 3000)
    first, second = received(TABLES, chunks), received(TABLES, chunks[::-1])
    np.testing.assert_array_equal(first.coarse, second.coarse)
    np.testing.assert_array_equal(first.fine, second.fine)


def tiles_with(cells: np.ndarray) -> np.ndarray:
    return cells.reshape(16, 4, 32, 4).any(axis=(1, 3))


def test_boxes_come_first_then_coarse_codes_then_tiles():
    chunks = sent(TABLES, CODES, 5000)
    assert len(received(TABLES, chunks[:1]).boxes) == len(CODES.boxes)
    layers = [received(TABLES, [chunk]).bytes_of for chunk in chunks]
    first = {layer: [size[layer] > 0 for size in layers].index(True) for layer in layers[0]}
    last = {layer: max(k for k, size in enumerate(layers) if size[layer]) for layer in layers[0]}
    assert first['boxes'] <= first['coarse'] <= last['coarse'] <= first['fine'] < last['fine']


@pytest.mark.parametrize('boxes', [0, 3, 23, 40, 90, 150])
def test_every_full_chunk_repeats_the_likely_boxes(boxes):
    codes = random_codes(TABLES, boxes=boxes)
    most = min((codes.boxes.scores >= 0.3).sum(), 23)
    chunks = sent(TABLES, codes, 8000)
    expected = received(TABLES, chunks).boxes
    assert len(expected) == boxes
    for chunk in chunks[1:-1]:
        alone = received(TABLES, [chunk])
        np.testing.assert_array_equal(alone.boxes.boxes[:most], expected.boxes[:most])
        # Of more than a chunk holds, the second one has the others, too.
        assert len(alone.boxes) == (most + boxes - 95 if boxes > 95 and chunk is chunks[1] else most)
        assert alone.partial == (boxes > 0)
    assert not received(TABLES, chunks[:1]).partial


def test_a_list_of_boxes_is_not_repeated_if_none_is_likely():
    codes = random_codes(TABLES, boxes=20)
    doubtful = replace(codes, boxes=replace(codes.boxes, scores=codes.boxes.scores * 0.29))
    first, *others = sent(TABLES, doubtful, 4000)
    assert len(received(TABLES, [first]).boxes) == 20
    # It would say that there are none.
    assert received(TABLES, others).boxes is None


@pytest.mark.parametrize(('overhead', 'least'), [(0, 2875), (200, 3375)])
def test_a_budget_of_two_chunks_is_too_small_to_repeat_boxes(overhead, least):
    def lists(budget):
        chunks = sent(TABLES, CODES, budget, overhead)
        return [len(received(TABLES, [chunk]).boxes or ()) for chunk in chunks]

    assert lists(least - 1) == [20, 0, 0]
    assert lists(least)[:2] == [20, 14]


def test_boxes_take_at_most_a_quarter_of_a_further_chunk():
    for budget in range(2900, 3700, 20):
        chunks = sent(TABLES, CODES, budget)
        left = budget - sum(map(len, chunks[:-1]))
        last = received(TABLES, chunks[-1:])
        assert len(last.boxes or ()) == (14 if left / 4 >= 14 * 12 else 0)


@pytest.mark.parametrize('budget', [1000, 2000, 4000, 6000])
def test_the_tiles_sent_have_the_largest_benefit(budget):
    result = received(TABLES, sent(TABLES, CODES, budget))
    tiles, refined = (tiles_with(level >= 0) for level in result.fine)
    others = ~tiles & tiles_with(CODES.fine[0] > 0)
    assert CODES.benefit[tiles].min() >= CODES.benefit[others].max()
    assert budget == 1000 or CODES.benefit[refined].min() >= CODES.benefit[tiles & ~refined].max()


def test_a_lost_chunk_costs_single_tiles():
    chunks = sent(TABLES, CODES, 4000)
    every = tiles_with(received(TABLES, chunks).fine[0] >= 0)
    lost = every & ~tiles_with(received(TABLES, [*chunks[:2], *chunks[3:]]).fine[0] >= 0)
    assert lost.sum() > 0.2 * every.sum()
    beside = np.pad(lost, 1)
    beside = beside[:-2, 1:-1] | beside[2:, 1:-1] | beside[1:-1, :-2] | beside[1:-1, 2:]
    assert (lost & beside).sum() < 0.2 * lost.sum()


@pytest.mark.parametrize('shape', [(64, 128), (128, 256)])
@pytest.mark.parametrize('overhead', [0, 180])
def test_the_budget_is_met_and_used(shape, overhead):
    tables = link_tables(*shape)
    codes = random_codes(tables)
    everything = sum(len(chunk) + overhead for chunk in sent(tables, codes, ALL, overhead))
    for budget in (300, 500, 1000, 1150, 1151, 2000, 4000, 16_000, 107_000):
        chunks = sent(tables, codes, budget, overhead)
        assert all(len(chunk) <= 1150 for chunk in chunks)
        size = sum(len(chunk) + overhead for chunk in chunks)
        assert size <= budget
        # A message's other fields leave nothing to say to the last bytes.
        assert size >= min(0.97 * budget - overhead, everything)
        assert_true(received(tables, chunks), codes)


@settings(max_examples=60, deadline=None)
@given(budget=st.integers(-10, 1500), overhead=st.integers(0, 250), boxes=st.sampled_from([0, 3, 90]))
def test_small_budgets_are_met(budget, overhead, boxes):
    tables = link_tables(8, 16)
    codes = random_codes(tables, 0, boxes)
    chunks = sent(tables, codes, budget, overhead)
    assert sum(len(chunk) + overhead for chunk in chunks) <= max(budget, 0)
    result = received(tables, chunks)
    assert_true(result, codes)
    if chunks:
        fitting = min((budget - overhead - 2) // BOX_BYTES, 90, boxes)
        np.testing.assert_allclose(result.boxes.scores[:fitting], codes.boxes.scores[:fitting], atol=0.002)


def test_more_boxes_than_a_chunk_holds_use_further_chunks():
    codes = random_codes(TABLES, boxes=250)
    chunks = sent(TABLES, codes, 4000)
    result = received(TABLES, chunks)
    assert len(result.boxes) == 250
    assert (np.diff(result.boxes.scores) <= 0).all()
    # The second and third begin with the best 23, too.
    assert len(received(TABLES, chunks[1:]).boxes) == 250 - 95 + 23


def test_of_more_boxes_than_any_vehicle_sends_the_best_are_kept():
    codes = random_codes(TABLES, boxes=400)
    result = received(TABLES, sent(TABLES, codes, ALL))
    assert len(result.boxes) == MOST_BOXES
    np.testing.assert_allclose(
        result.boxes.scores, np.sort(codes.boxes.scores)[::-1][:MOST_BOXES], atol=0.002
    )


def test_no_boxes_differ_from_boxes_that_did_not_arrive():
    chunks = sent(TABLES, random_codes(TABLES, boxes=0), 3000)
    assert all(len(received(TABLES, [chunk]).boxes) == 0 for chunk in chunks)
    assert received(TABLES, [without_boxes(chunk, TABLES) for chunk in chunks[1:]]).boxes is None


def test_only_the_first_chunks_of_a_huge_map_are_sent():
    tables = link_tables(512, 1024)
    chunks = sent(tables, random_codes(tables), ALL)
    assert len(chunks) == MOST_CHUNKS


def entropy_of(codes: SweepCodes) -> float:
    """Bytes of all codes by Shannon, with the probabilities of the tables."""
    arrays = {name: values.astype(np.float64) for name, values in link_arrays().items()}
    bits = -np.log2(arrays['coarse_probability'][codes.coarse]).sum()
    sent_tiles = (codes.coarse > 0).repeat(4, 0).repeat(4, 1)
    bits -= np.log2(arrays['fine_probability'][0][codes.fine[0][sent_tiles]]).sum()
    bits -= np.log2(arrays['fine_probability'][1][codes.fine[1][codes.fine[0] > 0]]).sum()
    return bits / 8


def test_the_bytes_are_within_three_per_cent_of_the_entropy():
    codes = random_codes(TABLES, boxes=0)
    bound = entropy_of(codes)
    assert bound <= sum(map(len, sent(TABLES, codes))) <= 1.03 * bound


def test_the_same_sweep_gives_the_same_bytes():
    assert sent(link_tables(), random_codes(link_tables()), 4000) == sent(TABLES, CODES, 4000)


def test_coarse_codes_stand_in_for_tiles_that_did_not_arrive():
    chunks = sent(TABLES, CODES, 2000)
    result = received(TABLES, chunks)
    feature = result.feature(TABLES)
    arrived, coarse = result.fine[0] >= 0, result.coarse.repeat(4, 0).repeat(4, 1)
    assert {0.5, 1.0} == set(np.unique(feature.level))
    np.testing.assert_array_equal(feature.level == 0.5, ~arrived & (coarse > 0))
    np.testing.assert_array_equal(feature.known_empty, np.where(arrived, result.fine[0] == 0, coarse == 0))
    np.testing.assert_array_equal(
        feature.feature[:, feature.level == 0.5], TABLES.coarse_vectors[coarse[feature.level == 0.5]].T
    )
    only = received(TABLES, chunks[1:]).feature(TABLES)
    assert (only.feature[:, only.level == 0] == 0).all()
    assert not only.known_empty[only.level == 0].any()
    assert (only.level == 0).any()


def damaged_chunks() -> dict[str, bytes]:
    """Reason and bytes; the undamaged chunk has 9 bytes of flags, places and numbers before its codes."""
    chunk = without_boxes(sent(TABLES, CODES, 3000)[1], TABLES)
    return {
        'expected 1 to 1150': chunk + bytes(2000),
        '^chunk 1: 0 bytes': b'',
        'begins with 0x14, which is no chunk of version 2': b'\x14' + chunk[1:],
        'begins with 0x28': b'\x28' + chunk[1:],
        '3 bytes, 5 or more announced': chunk[:3],
        '65535 tiles from 65535 on, the map has 512': chunk[:1] + b'\xff\xff\xff\xff' + chunk[5:],
        '1 tiles from 512 on, the map has 512': b'\x22\x00\x02\x01\x00' + chunk[5:],
        'of 1 tiles with fine codes': chunk[:3] + b'\x01\x00' + chunk[5:],
        'cannot be those that its header announces': chunk[:40],
        'end with a zero byte': chunk[:-1] + b'\0',
        'tiles are not as many as its header announces': chunk[:-9] + chunk[-1:],
        'codes are not those that its header announces': chunk[:9] + b'\x55' + chunk[10:],
        'box 1 has sides of': b'\x21\x02' + b'\x01' * 12 + b'\x00' * 12,
    }


@pytest.mark.parametrize('budget', [0, 300, 1500, 4000, ALL])
def test_the_bytes_by_layer_are_those_that_a_receiver_counts(budget):
    chunks = Packer(TABLES).pack(CODES.outgoing(TABLES), budget, 190)
    assert chunks.bytes_of == Unpacker(TABLES).unpack(chunks).bytes_of


def test_damaged_chunks_are_named_by_their_numbers():
    chunks = sent(TABLES, CODES, 3000)
    damaged = chunks[1][:40]
    refused = Unpacker(TABLES).unpack({7: damaged, 0: chunks[0], 3: damaged}).refused
    assert [str(error).partition(':')[0] for error in refused] == ['chunk 3', 'chunk 7']


@pytest.mark.parametrize('reason', list(damaged_chunks()))
def test_a_damaged_chunk_is_refused_by_its_place_and_costs_no_other(reason):
    chunks = sent(TABLES, CODES, 3000)
    result = Unpacker(TABLES).unpack([chunks[0], damaged_chunks()[reason], chunks[2]])
    (refused,) = result.refused
    assert str(refused).startswith('chunk 1: ')
    with pytest.raises(type(refused), match=reason):
        raise refused
    expected = received(TABLES, [chunks[0], chunks[2]])
    np.testing.assert_array_equal(result.fine, expected.fine)
    np.testing.assert_array_equal(result.coarse, expected.coarse)
    assert result.bytes_of == expected.bytes_of


@pytest.mark.parametrize('kind', ['flip', 'cut', 'grown'])
def test_bit_errors_in_the_codes_are_noticed(kind):
    draw = np.random.default_rng(3)
    original = without_boxes(sent(TABLES, CODES, 3000)[1], TABLES)
    for _ in range(200):
        chunk = bytearray(original)
        if kind == 'flip':
            chunk[draw.integers(9, len(chunk))] ^= 1 << draw.integers(8)
        elif kind == 'cut':
            del chunk[draw.integers(9, len(chunk)) :]
        else:
            chunk += draw.bytes(3)
        assert Unpacker(TABLES).unpack([bytes(chunk)]).refused


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'coarse': np.zeros((16, 31), np.uint8)}, r'shapes \(\(16, 31\), .*expected \(\(16, 32\)'),
        ({'normal': np.zeros((TABLES.channels - 1, 64, 128), np.float32)}, 'shapes'),
        ({'occupied': np.zeros((128, 64), np.bool_)}, 'shapes'),
        ({'coarse': np.full((16, 32), 64, np.uint8)}, r'codes up to 64, the tables have 64'),
    ],
)
def test_a_map_of_other_tables_is_refused(change, reason):
    with pytest.raises(ModelError, match=reason):
        Packer(TABLES).pack(replace(CODES.outgoing(TABLES), **change), ALL)


def test_what_is_in_empty_cells_has_no_meaning():
    outgoing = CODES.outgoing(TABLES)
    normal = outgoing.normal.copy()
    normal[:, ~outgoing.occupied] = 255
    other = Packer(TABLES).pack(replace(outgoing, normal=normal), 4000)
    assert other == sent(TABLES, CODES, 4000)


@pytest.mark.parametrize('budget', [1000, 3000, 4000, 8000])
@pytest.mark.parametrize('boxes', [0, 20, 60, 100, 150])
def test_a_budget_is_used_up(budget, boxes):
    chunks = sent(TABLES, random_codes(TABLES, boxes=boxes), budget, 200)
    assert budget >= sum(map(len, chunks)) + 200 * len(chunks) > 0.92 * budget


def test_boxes_that_did_not_fit_are_those_with_the_lowest_scores():
    (chunk,) = sent(TABLES, CODES, 100)
    boxes = received(TABLES, [chunk]).boxes
    assert len(boxes) == 8
    np.testing.assert_allclose(boxes.boxes[:, 0], CODES.boxes.boxes[:8, 0], atol=0.00501)
    assert isinstance(boxes, Boxes3D)
