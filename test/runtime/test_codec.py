# SPDX-License-Identifier: Apache-2.0
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkd_ros.runtime.codec import EncodedFeature, PayloadError, decode, encode
from diffkd_ros.runtime.features import BevFeature


def random_feature(seed: int, channels: int, height: int, width: int, filled: float) -> BevFeature:
    draw = np.random.default_rng(seed)
    mask = draw.random((height, width)) < filled
    feature = (draw.normal(size=(channels, height, width)) * mask).astype(np.float32)
    density = (np.log1p(draw.integers(0, 300, (height, width))) * mask).astype(np.float32)
    return BevFeature(feature, density)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 8), st.integers(1, 17), st.integers(1, 23)),
    filled=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_the_round_trip_error_is_at_most_half_a_step(
    seed: int, shape: tuple[int, int, int], filled: float
) -> None:
    bev = random_feature(seed, *shape, filled)
    encoded = encode(bev)
    decoded = decode(encoded, *shape)
    step = np.abs(bev.feature).max(axis=(1, 2), keepdims=True) / 127
    assert (np.abs(decoded.feature - bev.feature) <= 0.5001 * step + 1e-7).all()
    assert np.abs(decoded.density - bev.density).max(initial=0) <= 0.5 / 32 + 1e-6
    assert np.array_equal(decoded.density > 0, bev.density > 0)


def test_empty_cells_take_almost_no_bytes() -> None:
    dense = encode(random_feature(0, 32, 64, 128, 1.0))
    sparse = encode(random_feature(0, 32, 64, 128, 0.05))
    assert len(sparse.data) < 0.1 * len(dense.data)


def corrupt(encoded: EncodedFeature) -> dict[str, EncodedFeature]:
    raw = zlib.decompress(encoded.data)
    scales = encoded.scales.copy()
    scales[1] = np.nan
    return {
        'unknown encoding': replace(encoded, encoding=7),
        'shape': replace(encoded, width=encoded.width + 1),
        'scales for': replace(encoded, scales=encoded.scales[:-1]),
        'scales must': replace(encoded, scales=scales),
        'truncated': replace(encoded, data=encoded.data[:-20]),
        'bytes follow': replace(encoded, data=encoded.data + b'more'),
        'does not decompress': replace(encoded, data=b'\x00' + encoded.data),
        'expected for': replace(encoded, data=zlib.compress(raw[:-1])),
        'cell mask': replace(encoded, data=zlib.compress(b'\x01')),
        'decompresses to more': replace(encoded, data=zlib.compress(bytes(10_000_000))),
    }


@pytest.mark.parametrize('message', list(corrupt(encode(random_feature(0, 4, 8, 8, 0.5)))))
def test_a_corrupt_payload_is_refused_with_its_problem(message: str) -> None:
    encoded = corrupt(encode(random_feature(0, 4, 8, 8, 0.5)))[message]
    with pytest.raises(PayloadError, match=message):
        decode(encoded, 4, 8, 8)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise_anything_else(data: bytes) -> None:
    encoded = EncodedFeature(1, 2, 4, 4, np.ones(2, np.float32), data)
    with pytest.raises(PayloadError):
        decode(encoded, 2, 4, 4)
