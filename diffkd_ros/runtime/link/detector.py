# SPDX-License-Identifier: Apache-2.0
"""Detection with layered messages: restore, examine, move, fuse, and merge with the boxes that were sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from diffkd_ros.frame import Boxes3D
from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.runtime.card import ModelCard
from diffkd_ros.runtime.detector import Detection
from diffkd_ros.runtime.features import BevFeature
from diffkd_ros.runtime.link.maps import ReceivedMap
from diffkd_ros.runtime.link.memory import Moment
from diffkd_ros.runtime.link.merging import merge_boxes, merge_received
from diffkd_ros.runtime.link.motion import Displacement, Motion, displaced, moved_map
from diffkd_ros.runtime.link.restorer import MapReceiver
from diffkd_ros.runtime.plausibility.examination import Examination
from diffkd_ros.runtime.plausibility.output import reconciled


def detect_layered(
    card: ModelCard,
    receiver: MapReceiver,
    detect: Callable[[Sequence[BevFeature], Sequence[Matrix]], Detection],
    ego: BevFeature,
    received: Sequence[ReceivedMap | BevFeature],
    poses: Sequence[Matrix],
    moment: Moment | None = None,
    examination: Examination | None = None,
    motion: Motion | None = None,
) -> Detection:
    """Detect in the ego's map and in what arrived of its neighbours' maps.

    If the ego's map is empty, all boxes that were sent are merged: the fusion alone is then less accurate.

    Args:
        card: of the model.
        receiver: decodes and restores the neighbours' maps.
        detect: fuses maps, the ego's first, and detects, as `CooperativeDetector.detect`.
        ego: its own map.
        received: of each neighbour; a `BevFeature` arrived whole.
        poses: (4, 4) map <- LiDAR of the ego and of each neighbour.
        moment: see `MapReceiver.features`.
        examination: leaves implausible sweeps out; None: all are fused.
        motion: moves what late sweeps show to where it is now; None: it stays where it was.

    Returns:
        The detection. Its latency also has the stages `restore`, `examine`, `move` and `merge`, about 0
        without neighbours; with a memory, however, the ego's map is restored in every sweep.
    """

    def restore(numbers: Sequence[int]) -> list[BevFeature]:
        return receiver.features(
            ego,
            [received[number] for number in numbers],
            [poses[0], *(poses[1 + number] for number in numbers)],
            None if moment is None else moment.of(numbers),
        )

    noted = time.perf_counter()
    # What senders in quarantine sent reaches nothing, not even others' maps by their restoration.
    heard = list(range(len(received))) if examination is None else examination.heard()
    offsets: Sequence[Displacement | None] = [None] * len(received)
    if motion is not None:
        offsets = motion.note(received, poses, heard)
    started = time.perf_counter()
    features = restore(heard)
    restored = time.perf_counter()
    examined = None
    if examination is not None and received:
        maps = dict(zip(heard, features[1:], strict=True))
        examined = examination.examine(features[0], maps, received, poses, offsets)
        if (believed := examined.believed) != heard:
            features = restore(believed)
        received, poses = [received[k] for k in believed], [poses[0], *(poses[1 + k] for k in believed)]
        offsets = [offsets[k] for k in believed]
    plausible = time.perf_counter()
    features = [features[0], *map(partial(_moved, grid=card.grid), features[1:], received, offsets)]
    moved = time.perf_counter()
    detection = detect(features, poses)
    detected = time.perf_counter()
    boxes, seen_by = _merged(card, detection.boxes, ego, received, offsets, poses), detection.seen_by
    if examined is not None:
        said = [examined.said[number] for number in examined.believed]
        boxes, seen_by = reconciled(boxes, examined.ego, said, card.decoding)
    latency = {
        'restore': (restored - started) * 1e3,
        'examine': (plausible - restored) * 1e3,
        'move': (started - noted + moved - plausible) * 1e3,
        **detection.latency_ms,
        'merge': (time.perf_counter() - detected) * 1e3,
    }
    doubts = () if examined is None else tuple(examined.doubts)
    return replace(detection, boxes=boxes, latency_ms=latency, doubts=doubts, seen_by=seen_by)


def _moved(
    feature: BevFeature, received: ReceivedMap | BevFeature, offset: Displacement | None, grid: BevGrid
) -> BevFeature:
    if isinstance(received, ReceivedMap) and received.boxes is not None and offset is not None:
        return moved_map(feature, received.boxes, offset, grid)
    return feature


def _merged(
    card: ModelCard,
    boxes: Boxes3D,
    ego: BevFeature,
    received: Sequence[ReceivedMap | BevFeature],
    offsets: Sequence[Displacement | None],
    poses: Sequence[Matrix],
) -> Boxes3D:
    """The fused boxes, and those sent in layers: all of them, if the ego has no return."""
    layered = [
        (each, offset, pose)
        for each, offset, pose in zip(received, offsets, poses[1:], strict=True)
        if isinstance(each, ReceivedMap)
    ]
    if not layered:
        return boxes
    maps, theirs, places = zip(*layered, strict=True)
    sent = list(map(displaced, (each.boxes for each in maps), theirs))
    if ego.density.any():
        return merge_received(boxes, maps, sent, [poses[0], *places], card.grid, card.decoding)
    return merge_boxes(boxes, sent, [poses[0], *places], card.decoding)
