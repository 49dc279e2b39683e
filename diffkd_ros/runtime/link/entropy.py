# SPDX-License-Identifier: Apache-2.0
"""Entropy coding of codes by asymmetric numeral systems (Duda, 2013), by the library `constriction`.

Sender and receiver must use exactly the same probabilities on every platform, so a model is made from
integers, whose sum does not depend on the order of its terms.

The bytes need no checksum. The decoder is a bijection: bytes that were changed do not lead back to the
coder's initial state, except by a chance of about 2^-24, which `Decompressor.close` checks; and UDP and the
link layer discard packets with bit errors. No checksum protects from a sender that lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import constriction
import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffkd_ros.runtime.codec import PayloadError

_RESOLUTION = 2**20
# Not 0, from which any number of codes 0 would take no bytes; the precision of the coder's probabilities.
_INITIAL_STATE = np.array([2**24], np.uint32)


class EntropyModel:
    """The probabilities of codes.

    Args:
        counts: (k,) non-negative integers in proportion to the probabilities, k > 1, sum below 2^24. A code
            with a count of 0 can be coded too, at 24 bits.

    Attributes:
        bits: (k,) cost of each code.
    """

    def __init__(self, counts: ArrayLike) -> None:
        weights = np.asarray(counts, np.float64)
        self.bits = np.log2(weights.sum() / np.maximum(weights, weights.sum() / 2**24))
        self.categorical = constriction.stream.model.Categorical(weights.astype(np.float32), perfect=False)

    def expected(self, without_first: bool = False) -> float:
        """Mean cost of a code, in bits; `without_first`, given that it is not code 0."""
        bits = self.bits[int(without_first) :]
        shares = 2.0**-bits
        return float((shares * bits).sum() / shares.sum())

    @classmethod
    def of_probabilities(cls, probabilities: NDArray[np.float32]) -> EntropyModel:
        """The model of probabilities that sum to about 1; none is below 2^-20."""
        return cls(np.maximum(1, np.rint(probabilities.astype(np.float64) * _RESOLUTION)))


def compress(parts: Sequence[tuple[NDArray[np.integer], EntropyModel]]) -> bytes:
    """Encode runs of codes, each with its model."""
    coder = constriction.stream.stack.AnsCoder(_INITIAL_STATE)
    for codes, model in reversed(parts):
        coder.encode_reverse(codes.astype(np.int32), model.categorical)
    # The last of the words is not 0, so that its zero bytes need not be sent.
    return coder.get_compressed().astype('<u4').tobytes().rstrip(b'\0') if parts else b''


class Decompressor:
    """Decodes the runs of codes that `compress` encoded, in their order.

    Raises:
        PayloadError: if the bytes cannot be of `compress`.
    """

    def __init__(self, data: bytes) -> None:
        if data.endswith(b'\0'):
            raise PayloadError('its codes end with a zero byte')
        words = np.frombuffer(data + bytes(-len(data) % 4), '<u4').astype(np.uint32)
        self._coder = constriction.stream.stack.AnsCoder(words if data else _INITIAL_STATE)

    def read(self, count: int, model: EntropyModel) -> NDArray[np.int32]:
        """The next codes, any if the data has ended."""
        return self._coder.decode(model.categorical, count)

    def close(self) -> None:
        """Check that the codes read were exactly those encoded.

        Raises:
            PayloadError: if not.
        """
        if not np.array_equal(self._coder.get_compressed(), _INITIAL_STATE):
            raise PayloadError('its codes are not those that its header announces')
