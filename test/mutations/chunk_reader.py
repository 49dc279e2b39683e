# SPDX-License-Identifier: Apache-2.0
"""The chunks of a layered message."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from cases import Reader
from changes import damaged, number_of_type
from diffkd_ros.msg import BevChunk
from layered_map import link_tables, random_codes

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.messages.building import fill
from diffkd_ros.messages.poses import pose_of_chunk
from diffkd_ros.runtime.link.boxes import draw_boxes
from diffkd_ros.runtime.link.chunk import Chunk, encode_chunk
from diffkd_ros.runtime.link.packing import Packer
from diffkd_ros.runtime.link.unpacking import Unpacker


class Chunks(Reader):
    """The `diffkd_ros/BevChunk`s of a neighbour's sweep: its pose, and everything that is decoded of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tables = link_tables(32, 64, channels=4)
        self.grid = BevGrid(-25.6, -12.8, -1, 25.6, 12.8, 1, 32, 64)
        self.sweeps = [
            Packer(self.tables).pack(random_codes(self.tables, seed, boxes).outgoing(self.tables), 4000)
            for seed, boxes in enumerate((20, 0, 150))
        ]

    def document(self, chunks: list[bytes]) -> dict[str, Any]:
        """A valid sweep as a document."""
        return {
            'position': [1.0, 2.0, 3.0], 'orientation': [0.0, 0.0, 0.6, 0.8], 'pose_variance': [0.01] * 6,
            'twist': [10.0, 0.0, 0.0, 0.0, 0.0, 0.1], 'twist_known': True, 'chunks': list(chunks),
        }  # fmt: skip

    def valid(self) -> list[Any]:
        return [self.document(chunks) for chunks in self.sweeps]

    def case(self, rng: Random) -> Any:
        content = self.document(rng.choice(self.sweeps))
        chunks = content['chunks']
        if rng.random() < 0.2:
            name = rng.choice(('position', 'orientation', 'pose_variance', 'twist'))
            content[name][rng.randrange(len(content[name]))] = rng.choice(
                (np.nan, np.inf, -1.0, 0.0, 1e30, 1e-30, 3.4e38)
            )
        for _ in range(rng.choice((1, 1, 3))):
            k = rng.randrange(len(chunks))
            what = rng.randrange(5)
            if what == 0:
                chunks[k] = damaged(chunks[k], rng, rng.choice((1, 3)))
            elif what == 1:
                start, size = rng.randrange(9), rng.choice((1, 2))
                number = number_of_type(rng, 0, 256**size - 1).to_bytes(size, 'little')
                chunks[k] = chunks[k][:start] + number + chunks[k][start + size :]
            elif what == 2:
                chunks[k] = self.coded(rng)
            elif what == 3:
                chunks[k] = bytes([rng.choice((32, 33, 34, 36, 39))]) + rng.randbytes(
                    rng.choice((5, 50, 1000))
                )
            else:
                chunks.append(rng.choice(rng.choice(self.sweeps)))
        if rng.random() < 0.4:
            content['chunks'] = [rng.choice(chunks)]
        return content

    def coded(self, rng: Random) -> bytes:
        """A chunk that this package can write, but no sender would."""
        draw = np.random.default_rng(rng.randrange(2**32))
        tiles = self.tables.tiles
        first = draw.integers(0, tiles, 2)
        depth = draw.integers(0, 3, draw.integers(1, tiles + 1 - first[1]))
        depth[draw.integers(len(depth))] = 1
        return encode_chunk(
            Chunk(
                Boxes3D(draw.uniform(0.1, 300, (2, 7)), scores=draw.random(2))
                if rng.random() < 0.3
                else None,
                int(first[0]),
                draw.integers(0, 64, draw.integers(0, tiles + 1 - first[0])),
                int(first[1]),
                depth,
                draw.integers(0, 256, (2, np.count_nonzero(depth), 16)),
            ),
            self.tables,
        )

    def read(self, case: Any) -> Any:
        content = dict(case)
        chunks = content.pop('chunks')
        message = BevChunk(map_frame='map', twist_known=content.pop('twist_known'))
        for name, values in content.items():
            fill(getattr(message, name), values)
        pose = pose_of_chunk(message)
        received = Unpacker(self.tables).unpack(chunks)
        if len(received.refused) == len(set(chunks)):
            raise received.refused[0]
        assert received.fine.shape == (2, 32, 64)
        assert received.coarse.shape == (8, 16)
        assert sum(received.bytes_of.values()) <= sum(map(len, chunks))
        boxes = received.boxes or Boxes3D.empty()
        return pose, boxes, draw_boxes(boxes, self.grid), received.feature(self.tables)
