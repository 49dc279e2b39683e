# SPDX-License-Identifier: Apache-2.0
"""The learnt codebooks of a model's layered message, and the order in which its tiles are coded."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.runtime.card import LINK, ModelCard, ModelError
from diffkd_ros.runtime.link.entropy import EntropyModel

TILE = 4
"""Edge of a tile in feature cells. A tile has one coarse code, and its fine codes are sent together."""
CELLS = TILE * TILE
_MOST_TILES = 2**16 - 1
_MOST_CODES = 256
_MOST_LEVELS = 4


class LinkTables:
    """Codebooks and entropy models, the contents of a model folder's `link.npz`.

    Args:
        arrays: `coarse_vectors` (K0, c), `fine_vectors` (L, K, c), `code_vectors` (L, K, c) the same in
            normalised features, `code_cost` (L, K) of the bits of a code in units of a squared error,
            `coarse_probability` (K0,) and `fine_probability` (L, K). Row 0 of the coarse vectors and of the
            first fine level, for what is empty, is 0.
        height: of the feature map in cells, a multiple of `TILE`.
        width: likewise.

    Attributes:
        height, width: see above.
        levels: L.
        tiles: number of tiles.
        coarse_vectors, fine_vectors, code_vectors: see above.
        coarse: entropy model of the coarse codes.
        fine: entropy model of each fine level.
        order: (tiles,) `sending_order`.
        cells: (tiles, 16) row-major numbers of the cells of each tile, in this order.

    Raises:
        ModelError: if the arrays do not fit together or to the map.
    """

    def __init__(self, arrays: Mapping[str, NDArray], height: int, width: int) -> None:
        self.height, self.width = height, width
        self.tiles = height * width // CELLS
        _require(height % TILE == width % TILE == 0, f'{height} x {width} cells are not whole tiles')
        _require(1 <= self.tiles <= _MOST_TILES, f'{self.tiles} tiles, at most {_MOST_TILES} can be coded')
        self.coarse_vectors = _array(arrays, 'coarse_vectors', 2)
        self.fine_vectors = _array(arrays, 'fine_vectors', 3)
        self.code_vectors = _array(arrays, 'code_vectors', 3)
        codes, self.channels = self.coarse_vectors.shape
        self.levels, fine_codes, channels = self.fine_vectors.shape
        _require(channels == self.channels, f'{self.channels} coarse and {channels} fine channels')
        _require(1 <= self.levels <= _MOST_LEVELS, f'{self.levels} fine levels, expected 1 to {_MOST_LEVELS}')
        cost = _array(arrays, 'code_cost', 2)
        for name, array in (('code_vectors', self.code_vectors), ('code_cost', cost)):
            expected = self.fine_vectors.shape[: array.ndim]
            _require(array.shape == expected, f'{name} has shape {array.shape}, expected {expected}')
        for count in (codes, fine_codes):
            _require(2 <= count <= _MOST_CODES, f'{count} codes, expected 2 to {_MOST_CODES}')
        for name, row in (('coarse', self.coarse_vectors[0]), ('fine', self.fine_vectors[0, 0])):
            _require(not row.any(), f'the {name} vector of code 0, which is empty, must be 0')
        # Of a feature x to a vector v: x v - (v^2 + cost) / 2, for (x, 1) as one product.
        squares = np.square(self.code_vectors).sum(axis=2) + cost
        squares[0, 0] = np.inf  # code 0 of the first level is the empty cell's
        self._closeness = np.concatenate((self.code_vectors, -squares[..., None] / 2), axis=2).swapaxes(1, 2)
        self.coarse = _model(arrays, 'coarse_probability', codes)[0]
        self.fine = _model(arrays, 'fine_probability', self.levels, fine_codes)
        self.order = sending_order(height // TILE, width // TILE)
        self.cells = self.as_tiles(np.arange(height * width).reshape(height, width))[self.order]

    @classmethod
    def load(cls, card: ModelCard) -> LinkTables:
        """Read the tables of a model folder, whose hash `ModelCard.load` has verified.

        Raises:
            ModelError: if the model has no layered message, or the file is not readable or does not fit the
                card.
        """
        path = card.link_path
        try:
            with np.load(path, allow_pickle=False) as file:
                tables = cls(file, card.grid.height, card.grid.width)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f'{path} is not a file of arrays: {error}') from error
        except ModelError as error:
            raise ModelError(f'{path}: {error}') from error
        if tables.channels != card.channels:
            raise ModelError(f'{path} has {tables.channels} channels, the card {card.channels}')
        return tables

    def code(self, normal: NDArray[np.float32], depth: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Find the fine codes of cells that are not empty.

        A level's code has the least squared distance to what the levels before leave, plus its cost.

        Args:
            normal: (k, c) normalised features.
            depth: (k,) number of levels to code of each cell, at least 1.

        Returns:
            (levels, k), 0 beyond a cell's depth.
        """
        codes = np.zeros((self.levels, len(normal)), np.uint8)
        rest, cells = normal, np.arange(len(normal))
        for level, vectors in enumerate(self.code_vectors):
            deep = depth[cells] > level
            rest, cells = rest[deep], cells[deep]
            closeness = np.column_stack((rest, np.ones(len(rest), np.float32))) @ self._closeness[level]
            found = closeness.argmax(axis=1)
            codes[level, cells] = found
            rest = rest - vectors[found]
        return codes

    def as_tiles(self, cells: NDArray) -> NDArray:
        """Maps (..., height, width) as (..., tiles, `CELLS`)."""
        split = cells.reshape(*cells.shape[:-2], self.height // TILE, TILE, self.width // TILE, TILE)
        return split.swapaxes(-3, -2).reshape(*cells.shape[:-2], self.tiles, CELLS)

    def as_cells(self, tiles: NDArray) -> NDArray:
        """The reverse of `as_tiles`."""
        split = tiles.reshape(*tiles.shape[:-2], self.height // TILE, self.width // TILE, TILE, TILE)
        return split.swapaxes(-3, -2).reshape(*tiles.shape[:-2], self.height, self.width)


def sending_order(rows: int, columns: int) -> NDArray[np.int64]:
    """Row-major numbers of tiles (rows * columns,) in the order in which they are sent.

    Successive ones lie apart, as the thresholds of ordered dithering, so that a lost chunk costs single tiles
    all over the map, whose neighbours arrive.
    """
    row, column = np.indices((rows, columns)).reshape(2, -1)
    bits = [(each >> k) & 1 for k in range(16) for each in (row ^ column, row)]
    return np.lexsort(bits[::-1])


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ModelError(f'tables of the link: {problem}')


def _array(arrays: Mapping[str, NDArray], name: str, dimensions: int) -> NDArray[np.float32]:
    _require(name in arrays, f'{name} is missing in {LINK}')
    array = arrays[name]
    _require(
        array.dtype == np.float32 and array.ndim == dimensions and bool(np.isfinite(array).all()),
        f'{name} must be finite float32 of {dimensions} dimensions, is {array.dtype} of {array.ndim}',
    )
    return array


def _model(arrays: Mapping[str, NDArray], name: str, *shape: int) -> list[EntropyModel]:
    array = _array(arrays, name, len(shape))
    _require(array.shape == shape, f'{name} has shape {array.shape}, expected {shape}')
    rows = array.reshape(-1, shape[-1])
    proper = (rows >= 0).all() and (np.abs(rows.sum(axis=1, dtype=np.float64) - 1) < 1e-3).all()
    _require(bool(proper), f'{name} must be probabilities that sum to 1')
    return [EntropyModel.of_probabilities(row) for row in rows]
