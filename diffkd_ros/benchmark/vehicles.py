# SPDX-License-Identifier: Apache-2.0
"""Jobs of the model: what a vehicle computes, and the ego with several agents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.benchmark.clock import Job
from diffkd_ros.benchmark.simulation import AGENTS, SEED
from diffkd_ros.frame import AgentSweep
from diffkd_ros.runtime import codec
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import CooperativeDetector, Detection
from diffkd_ros.runtime.encoder import FeatureEncoder
from diffkd_ros.runtime.link.detector import detect_layered
from diffkd_ros.runtime.link.motion import Motion, Tracks
from diffkd_ros.runtime.link.packing import DEFAULT_BUDGET, Packed, Packer
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.link.sender import MapSender
from diffkd_ros.runtime.link.unpacking import Unpacker
from diffkd_ros.runtime.plausibility.examination import Examination
from diffkd_ros.runtime.plausibility.judge import VIEWS, Judge

POINTS = 10_000, 30_000, 100_000, 300_000
STAGES = {
    'restore': 'decode and restore',
    'examine': 'examine neighbours',
    'move': 'move what is late',
    'fuse': 'warp, fuse, head',
    'decode': 'boxes and suppression',
    'merge': 'merge with sent boxes',
}
"""The ego's stages, by their names in `Detection.latency_ms`."""
LAYERS, WHOLE_MAPS = 'layers', 'whole maps'


def agents_text(count: int) -> str:
    """How rows name a number of agents."""
    return f'{count} agent{"s" if count > 1 else ""}'


def points_text(count: int) -> str:
    """How rows name an encoding of one of `POINTS`."""
    return f'encode {count // 1000},000 points'


def ego_row(count: int) -> str:
    """Name of the row of the whole ego with so many agents."""
    return f'restore, fuse, detect: {agents_text(count)}'


def stage_row(stage: str, count: int) -> str:
    """Name of the row of a stage, a value of `STAGES`, with so many agents."""
    return f'  {stage}: {agents_text(count)}'


class Vehicles:
    """Vehicles of one frame and the ego among them, with whole maps and, if the model has them, layers.

    Args:
        card: of a model with graphs.
        threads: CPU threads of ONNX Runtime.
        device: `cpu`, `cuda` or `tensorrt`.
        sweeps: of `AGENTS` agents, the ego's first.
    """

    def __init__(self, card: ModelCard, threads: int, device: str, sweeps: Sequence[AgentSweep]) -> None:
        self._card = card
        self._encoder = FeatureEncoder(card, threads, device)
        self._detector = CooperativeDetector(card, threads, device)
        self.clouds, self._poses = ([getattr(s, name) for s in sweeps] for name in ('points', 'pose'))
        self._maps = [self._encoder.encode(points) for points in self.clouds]
        self._whole = codec.encode(self._maps[1])
        self.stages: dict[str, list[float]] = defaultdict(list)
        self._chunks: list[Packed] = []
        if card.link:
            self._sender, self._receiver = (
                MapSender(card, threads, device),
                MapReceiver(card, threads, device),
            )
            tables = self._receiver.tables
            self._packer, self._unpacker = Packer(tables), Unpacker(tables)
            self._judge, self._tracks, self._stamp = Judge(VIEWS), Tracks(), 0
            self._outgoing = [self._sender.prepare(each) for each in self._maps]
            self._chunks = [self._packer.pack(each, DEFAULT_BUDGET) for each in self._outgoing]

    @property
    def sent_kb(self) -> dict[str, float]:
        """What a vehicle sends of a sweep, by kind of message."""
        layers = {'layers kB': sum(map(len, self._chunks[1])) / 1e3} if self._chunks else {}
        return {'payload kB': len(self._whole.data) / 1e3, **layers}

    def jobs(self) -> dict[str, Job]:
        """What one vehicle computes, and the ego with 1 to `AGENTS` agents."""
        own = self.clouds[0]
        jobs: dict[str, Job] = {f'encode a sweep of {len(own)} points': self.encode}
        for count in POINTS:
            jobs[points_text(count)] = partial(self._encoder.encode, resampled(own, count))
        jobs['encode a feature for the link'] = partial(codec.encode, self._maps[1])
        jobs['decode it'] = partial(codec.decode, self._whole, *self._maps[1].feature.shape)
        if self._chunks:
            jobs['detect in the own map, code and rank its tiles'] = partial(
                self._sender.prepare, self._maps[1]
            )
            jobs['pack layers'] = partial(self._packer.pack, self._outgoing[1], DEFAULT_BUDGET)
            jobs['unpack them'] = partial(self._unpacker.unpack, self._chunks[1])
        for count in range(1, AGENTS + 1):
            jobs[ego_row(count)] = partial(self._noting_stages, count)
        return jobs

    def encode(self) -> None:
        """Encode the ego's sweep."""
        self._encoder.encode(self.clouds[0])

    def egos(self, count: int) -> dict[str, Callable[[], Detection]]:
        """What the ego does with so many agents, by what their messages hold; first what its nodes send."""
        egos: dict[str, Callable[[], Detection]] = {}
        if self._chunks:
            egos[LAYERS] = partial(self._detect_layered, count)
        egos[WHOLE_MAPS] = partial(self._detector.detect, self._maps[:count], self._poses[:count])
        return egos

    def _noting_stages(self, count: int) -> None:
        detect = next(iter(self.egos(count).values()))
        for stage, duration in detect().latency_ms.items():
            self.stages[stage_row(STAGES[stage], count)].append(duration)

    def _detect_layered(self, count: int) -> Detection:
        """As the ego node does, a tenth of a second after the sweep before."""
        self._stamp += 100_000_000
        names, stamps = [f'cav_{number}' for number in range(2, count + 1)], [self._stamp] * count
        return detect_layered(
            self._card,
            self._receiver,
            self._detector.detect,
            self._maps[0],
            [self._unpacker.unpack(chunks) for chunks in self._chunks[1:count]],
            self._poses[:count],
            examination=Examination(self._sender, self._judge, names, stamps, self._card.grid),
            motion=Motion(self._tracks, names, stamps),
        )


def resampled(points: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """A cloud of `count` points that lie within centimetres of a sweep's (n, 4)."""
    draw = np.random.default_rng(SEED)
    points = draw.permutation(points)
    larger = np.resize(points, (count, 4))
    larger[:, :3] += draw.normal(0, 0.02, (count, 3))
    return larger
