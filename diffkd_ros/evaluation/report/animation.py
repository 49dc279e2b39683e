# SPDX-License-Identifier: Apache-2.0
"""Animations of fused frames as GIF files."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from diffkd_ros.errors import DiffkdError
from diffkd_ros.evaluation.report.scene import PANEL, SIGNALS, Picture, rgb
from diffkd_ros.evaluation.report.view import FusionView
from diffkd_ros.files import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image


def save_animation(
    views: Iterable[FusionView], path: Path, fps: float = 5.0, width: int = 960, max_bytes: int = 6_000_000
) -> None:
    """Draw views into a GIF that loops forever.

    All frames share one palette. If the file would exceed `max_bytes`, the frames are scaled down.

    Args:
        views: at least one.
        path: of the file.
        fps: frames per second.
        width: of the frames before scaling, pixels.
        max_bytes: maximum size of the file.

    Raises:
        DiffkdError: if there are no views, or the file cannot be written.
    """
    picture = Picture(width)

    from PIL import Image

    frames = [Image.fromarray(picture.pixels(view)) for view in views]
    if not frames:
        raise DiffkdError('an animation needs at least one view')
    while True:
        data = _gif(frames, fps)
        if len(data) <= max_bytes or frames[0].width <= 320:
            break
        scale = max(0.6, 0.95 * (max_bytes / len(data)) ** 0.5)
        size = (round(frames[0].width * scale), round(frames[0].height * scale))
        frames = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames]
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)


def _gif(frames: list[Image], fps: float) -> bytes:
    from PIL import Image

    # A common palette avoids flicker. It is made from a few frames and the signal colours, which may be rare.
    samples = frames[:: max(1, len(frames) // 6)][:6]
    width, height = frames[0].size
    sheet = Image.new('RGB', (width, height * (len(samples) + 1)), PANEL)
    for k, sample in enumerate(samples):
        sheet.paste(sample, (0, (k + 1) * height))
    for k, colour in enumerate(SIGNALS):
        for half, shade in enumerate((rgb(colour), 0.5 * (rgb(colour) + rgb(PANEL)))):
            red, green, blue = (int(255 * part) for part in shade)
            left, top = k * width // len(SIGNALS), half * height // 4
            sheet.paste((red, green, blue), (left, top, left + width // len(SIGNALS), top + height // 4))
    palette = sheet.quantize(128)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = BytesIO()
    indexed[0].save(
        buffer, format='GIF', save_all=True, append_images=indexed[1:], duration=round(1000.0 / fps), loop=0
    )
    return buffer.getvalue()
