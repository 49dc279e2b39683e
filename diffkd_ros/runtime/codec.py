# SPDX-License-Identifier: Apache-2.0
"""The V2X payload: encoding of a feature map as quantised, sparse, compressed bytes, and decoding.

Layout before compression, with n the number of non-empty cells in row-major order:

    ceil(height * width / 8) bytes   bit mask of non-empty cells, most significant bit first
    n bytes                          density, in steps of 1/32
    n * channels bytes               int8 values, channel by channel; value = scale[channel] * int8

The bytes come from another vehicle: `decode` validates them completely.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.runtime.features import BevFeature

SPARSE_INT8_ZLIB = 1
DENSITY_STEPS = 32.0
MAX_SCALE = 1e3


class PayloadError(DiffkdError):
    """A payload that is truncated or inconsistent, or has another shape or an unknown encoding."""


@dataclass(frozen=True, slots=True)
class EncodedFeature:
    """An encoded feature map.

    Attributes:
        encoding: `SPARSE_INT8_ZLIB`.
        channels, height, width: shape of the map.
        scales: (channels,) float32 quantisation step of each channel.
        data: compressed bytes.
    """

    encoding: int
    channels: int
    height: int
    width: int
    scales: NDArray[np.float32]
    data: bytes


def encode(bev: BevFeature) -> EncodedFeature:
    """Quantise to 8 bits per value, drop empty cells and compress; error at most half a step per value."""
    channels, height, width = bev.feature.shape
    largest = np.abs(bev.feature).max(axis=(1, 2))
    scales = np.where(largest > 0, largest / 127.0, 1.0).astype(np.float32)
    occupied = (bev.density > 0) | bev.feature.any(axis=0)
    values = np.rint(bev.feature[:, occupied] / scales[:, None]).astype(np.int8)
    density = np.clip(np.rint(bev.density[occupied] * DENSITY_STEPS), 0, 255).astype(np.uint8)
    raw = np.packbits(occupied).tobytes() + density.tobytes() + values.tobytes()
    # Level 1: higher levels take many times as long and save a few per cent of the bytes.
    return EncodedFeature(SPARSE_INT8_ZLIB, channels, height, width, scales, zlib.compress(raw, 1))


def decode(
    encoded: EncodedFeature, channels: int, height: int, width: int, largest: float | None = None
) -> BevFeature:
    """Decode a feature map of the expected shape.

    Args:
        encoded: the payload.
        channels: expected.
        height: expected.
        width: expected.
        largest: most absolute value, None for any that can be coded.

    Raises:
        PayloadError: if the payload does not have this shape and the layout above, or has larger values.
    """
    if encoded.encoding != SPARSE_INT8_ZLIB:
        raise PayloadError(f'unknown encoding {encoded.encoding}')
    found, expected = (encoded.channels, encoded.height, encoded.width), (channels, height, width)
    if found != expected:
        raise PayloadError(f'feature of shape {found}, expected {expected}')
    scales = np.asarray(encoded.scales, np.float32)
    if scales.shape != (channels,):
        raise PayloadError(f'{scales.size} scales for {channels} channels')
    if not ((scales > 0) & (scales < MAX_SCALE)).all():
        raise PayloadError(f'scales must lie in (0, {MAX_SCALE:g})')

    mask_bytes, limit = _mask_bytes(height, width), _largest_layout(channels, height, width)
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(encoded.data, limit + 1)
    except zlib.error as error:
        raise PayloadError(f'payload of {len(encoded.data)} bytes does not decompress: {error}') from error
    if not inflater.eof:
        problem = 'decompresses to more than a map of this shape' if len(raw) > limit else 'is truncated'
        raise PayloadError(f'payload of {len(encoded.data)} bytes {problem}')
    if inflater.unused_data:
        raise PayloadError(f'{len(inflater.unused_data)} bytes follow the payload')
    if len(raw) < mask_bytes:
        raise PayloadError(f'{len(raw)} bytes decompressed, the cell mask alone takes {mask_bytes}')
    buffer = np.frombuffer(raw, np.uint8)
    occupied = np.unpackbits(buffer[:mask_bytes], count=height * width).astype(bool).reshape(height, width)
    cells = int(occupied.sum())
    if len(raw) != mask_bytes + cells * (channels + 1):
        raise PayloadError(
            f'{len(raw)} bytes decompressed, {mask_bytes + cells * (channels + 1)} expected for {cells} cells'
        )
    density = np.zeros((height, width), np.float32)
    density[occupied] = buffer[mask_bytes : mask_bytes + cells] / DENSITY_STEPS
    feature = np.zeros((channels, height, width), np.float32)
    values = buffer[mask_bytes + cells :].view(np.int8).reshape(channels, cells)
    feature[:, occupied] = values * scales[:, None]
    if largest is not None and (found_value := float(np.abs(feature).max())) > largest:
        raise PayloadError(f'values up to {found_value:.3g}, expected at most {largest:g}')
    return BevFeature(feature, density)


def largest_payload(channels: int, height: int, width: int) -> int:
    """Bytes that no payload of this shape exceeds; incompressible ones grow a little."""
    size = _largest_layout(channels, height, width)
    return size + size // 8 + 64


def _mask_bytes(height: int, width: int) -> int:
    return (height * width + 7) // 8


def _largest_layout(channels: int, height: int, width: int) -> int:
    return _mask_bytes(height, width) + height * width * (channels + 1)
