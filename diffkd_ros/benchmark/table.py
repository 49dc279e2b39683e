# SPDX-License-Identifier: Apache-2.0
"""Prints the results as tables."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from diffkd_ros.benchmark.comparison import CLASSIC, EGO, ENCODE, RATIO, WHOLE, row
from diffkd_ros.benchmark.vehicles import LAYERS, WHOLE_MAPS


def print_times(title: str, times: Mapping[str, float]) -> None:
    """Print a row for every part; `times` are milliseconds by name."""
    table = Table('part', title=title)
    table.add_column('ms', justify='right')
    for name, duration in times.items():
        table.add_row(name, f'{duration:.2f}')
    Console().print(table)


def print_comparison(compared: Mapping[str, float]) -> None:
    """Print a row for every design; `compared` is the result of `comparison.compare`."""
    table = Table('ms, in turns', title='ours beside the classic design')
    for part in (ENCODE, EGO, WHOLE, RATIO):
        table.add_column(part, justify='right')
    for design, label in (
        (LAYERS, 'ours, layers'),
        (WHOLE_MAPS, 'ours, whole maps'),
        (CLASSIC, CLASSIC),
    ):
        if row(design, WHOLE) in compared:
            *times, ratio = (compared[row(design, part)] for part in (ENCODE, EGO, WHOLE, RATIO))
            table.add_row(label, *(f'{duration:.1f}' for duration in times), f'{ratio:.2f}')
    Console().print(table)
