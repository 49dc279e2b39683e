# SPDX-License-Identifier: Apache-2.0
"""Pictures of whom the ego trusts, and of what the sampler's steps bring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

RELIABILITY = 'reliability.png'
STEPS = 'steps.png'


def draw(evidence: Mapping[str, Any], folder: Path) -> None:
    """Write the pictures that the evidence has figures for."""
    if 'reliability' in evidence:
        _reliability(evidence['reliability'], folder / RELIABILITY)
    if 'steps' in evidence:
        _steps(evidence['steps'], folder / STEPS)


def _reliability(trust: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9.0, 3.6), layout='constrained')
    axes = figure.subplots(1, 2, sharex=True)
    names = [name for name in trust if name != 'clean']
    for axis, key, title in (
        (axes[0], 'ego_reliability', "ego's own reliability"),
        (axes[1], 'gate_neighbours', "a neighbour's mean weight"),
    ):
        clean = trust['clean'][key]
        axis.axhline(clean, color='0.6', lw=1)
        for name in names:
            levels = sorted(trust[name], key=int)
            values = [clean, *(trust[name][level][key] for level in levels)]
            axis.plot([0, *map(int, levels)], values, marker='o', ms=3, label=name.replace('_', ' '))
        axis.set(title=title, xlabel='severity; only the ego is hit')
        axis.set_xticks(range(1 + max(len(trust[name]) for name in names)))
    axes[1].legend(fontsize=7)
    figure.savefig(path, dpi=150)


def _steps(settings: list[Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9.0, 3.6), layout='constrained')
    axes = figure.subplots(1, 2)
    without = next((setting for setting in settings if not setting['steps']), None)
    for axis, key, title in (
        (axes[0], 'clean_ap50', 'clean'),
        (axes[1], 'corrupted_ap50', 'corrupted'),
    ):
        for start in dict.fromkeys(s['start'] for s in settings if s['steps']):
            chosen = [s for s in settings if s['start'] == start]
            axis.plot(
                [s['fuse_ms'] for s in chosen], [100 * s[key] for s in chosen], marker='o', ms=3, label=start
            )
            for setting in chosen:
                axis.annotate(str(setting['steps']), (setting['fuse_ms'], 100 * setting[key]), fontsize=7)
        if without is not None:
            axis.plot(without['fuse_ms'], 100 * without[key], 'k*', label='no restoration')
        axis.set(title=title, xlabel='fuse, ms', ylabel='AP@0.5, %')
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=150)
