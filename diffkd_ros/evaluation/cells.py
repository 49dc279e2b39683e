# SPDX-License-Identifier: Apache-2.0
"""Markdown tables, and the figures in them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table without the columns in which no line has an entry; empty without any."""
    kept = [0, *(i for i in range(1, len(header)) if any(cells[i] for cells in lines))]
    rule = ['---'] + ['--:'] * (len(header) - 1)
    if len(kept) == 1:
        return ''
    return '\n'.join('| ' + ' | '.join(cells[i] for i in kept) + ' |' for cells in (header, rule, *lines))


def number(value: float, digits: int = 1, sign: str = '', unit: str = '', scale: float = 1) -> str:
    """A scaled figure; empty if it is unknown."""
    return '' if math.isnan(value) else f'{scale * value:{sign}.{digits}f}{unit}'


def listed(values: Sequence[float], scale: float, sign: str = '') -> str:
    """The values of all training seeds; empty if they are unknown."""
    texts = [number(value, sign=sign, scale=scale) for value in values]
    return ', '.join(texts) if any(texts) else ''


def percent(share: float) -> str:
    """A share in percent; empty if it is unknown."""
    return number(share, scale=100)


def difference(value: float, interval: tuple[float, float], by_seed: Sequence[float], scale: float) -> str:
    """A difference with its interval over scenarios and, of several, its value for each training seed.

    In bold if it is beyond both: the interval does not contain 0, and two or more training seeds agree on the
    sign. With one training seed nothing is known of how much another one would change.
    """
    low, high = interval
    text = with_interval(value, interval, scale, '+')
    if len(by_seed) < 2 or not text:
        return text
    text += f'; {listed(by_seed, scale, "+")}'
    agreed = all(part * value > 0 for part in by_seed)
    return f'**{text}**' if low * high > 0 and agreed else text


def with_interval(value: float, interval: tuple[float, float], scale: float = 1, sign: str = '') -> str:
    """A figure with the ends of its interval, if they are known."""
    low, high = (number(end, sign=sign, scale=scale) for end in interval)
    text = number(value, sign=sign, scale=scale)
    return f'{text} ({low} to {high})' if low and high else text
