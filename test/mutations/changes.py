# SPDX-License-Identifier: Apache-2.0
"""Random damage to structured documents and to bytes, reproducible from a `random.Random`."""

from __future__ import annotations

import copy
import json
import math
import string
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import numpy as np
import yaml

Tree = Any
"""Nested dicts and lists of scalars, as JSON or YAML give them."""
Path = tuple[Any, ...]

NUMBERS: tuple[Any, ...] = (
    0, -0.0, 1, -1, 2, 3, 7, 10, 0.5, 1e-300, 5e-324, 255, 256, 65535, 65536,
    2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**70,
    1e16, -1e16, 1e19, 1e38, 3.5e38, 1e100, 1e154, 1e200, 1e308, -1e308, math.nan, math.inf, -math.inf,
    10**30, 10**400, -(10**400),
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    '', ' ', '.', '..', '/', '../..', '~', '$HOME', '$', '%s', '{}', '\0', '\n', '\ud800', '\u202e', 'ä',
    'x' * 300, 'nan', 'inf', '-inf', '1e999', '0x10', '1_000', '9' * 5000, '1' * 401, 'true', 'null', 'None',
    '-', '---', '000000', '99999999', '1626155123000000', 'a:b', 'a,b', '[', '(' * 500, '2001-13-01', 'sim',
    'sim:3', '/dev/full', '/proc/self/mem',
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    {'': None},
    [None],
    [0] * 7,
    {'a': {'a': {}}},
)


def hostile(rng: Random) -> Any:
    """A value that a reader may not expect."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(NUMBERS)
    if kind < 0.7:
        return rng.choice(TEXTS)
    if kind < 0.9:
        return copy.deepcopy(rng.choice(OTHERS))
    return nested(rng.choice((3, 30, 150)), rng)


def nested(depth: int, rng: Random) -> Tree:
    """Lists or mappings, one in the other."""
    tree: Tree = rng.choice(NUMBERS)
    for _ in range(depth):
        tree = {'a': tree} if rng.random() < 0.5 else [tree]
    return tree


def paths(tree: Tree) -> Iterator[Path]:
    """The path of every node of a document, the root's first."""
    stack: list[tuple[Path, Tree]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        yield path
        if isinstance(node, dict):
            stack += [((*path, key), value) for key, value in node.items()]
        elif isinstance(node, list):
            stack += [((*path, k), value) for k, value in enumerate(node)]


def at(tree: Tree, path: Path) -> Tree:
    """The node at a path."""
    for key in path:
        tree = tree[key]
    return tree


def _neighbour_of(value: Any, rng: Random) -> Any:
    """A value of the same kind that differs a little."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        changes: list[Callable[[Any], Any]] = [
            lambda v: -v, lambda v: v + 1, lambda v: v - 1, lambda v: v * 10, lambda v: v / 3, float, str,
            lambda v: v * 1e6, lambda v: [v], lambda v: v * 1e300, lambda v: v + 0.5, lambda v: v * 1e-9,
        ]  # fmt: skip
        try:
            return rng.choice(changes)(value)
        except OverflowError:
            return 0
    if isinstance(value, str):
        at, letter = rng.randrange(len(value) + 1), rng.choice(string.printable)
        return rng.choice(
            (value[:at] + letter + value[at:], value[:at] + value[at + 1 :], value * 2, value.upper())
        )
    if isinstance(value, list):
        longer = value + value
        return rng.choice(
            (longer, value[:-1], value[1:], value[::-1], value * rng.choice((5, 50)), dict(enumerate(value)))
        )
    if isinstance(value, dict):
        return list(value.values())
    return hostile(rng)


def changed(tree: Tree, rng: Random, times: int = 1) -> Tree:
    """A copy of a document with so many random changes."""
    holder = [copy.deepcopy(tree)]
    for _ in range(times):
        _change(holder, rng)
    return holder[0] if len(holder) == 1 else holder


def _change(holder: list[Tree], rng: Random) -> None:
    places = list(paths(holder))[1:]
    if not places:
        holder.append(hostile(rng))
        return
    # Deep nodes outnumber those near the root, which decide more.
    place = min(rng.choice(places), rng.choice(places), key=len) if rng.random() < 0.3 else rng.choice(places)
    parent, key = at(holder, place[:-1]), place[-1]
    node = parent[key]
    what = rng.random()
    if what < 0.4:
        parent[key] = hostile(rng)
    elif what < 0.65:
        parent[key] = _neighbour_of(node, rng)
    elif what < 0.75 and len(place) > 1:
        del parent[key]
    elif what < 0.85:
        parent[key] = copy.deepcopy(at(holder, rng.choice(places)))
    elif isinstance(parent, dict):
        new = rng.choice((hostile(rng), f'{key}x', rng.choice(list(parent))))
        parent[new if isinstance(new, str | int | float | bool | None) else str(new)] = (
            parent.pop(key) if rng.random() < 0.5 else copy.deepcopy(node)
        )
    else:
        parent[key : key + 1] = [copy.deepcopy(node) for _ in range(rng.choice((0, 2, 3, 20)))]


def damaged(data: bytes, rng: Random, times: int = 1) -> bytes:
    """A copy of the bytes with so many random changes."""
    for _ in range(times):
        data = _damage(data, rng)
    return data


def _damage(data: bytes, rng: Random) -> bytes:
    if not data:
        return rng.randbytes(8)
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 1, 2, 4, 8, 64, len(data))))
    block = data[start:end]
    what = rng.randrange(9)
    if what == 0:
        return data[:start]
    if what == 1:
        return data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
    if what == 2:
        return data[:start] + rng.randbytes(len(block)) + data[end:]
    if what == 3:
        return data[:start] + data[end:]
    if what == 4:
        return data[:end] + block * min(rng.choice((1, 3, 100)), 1 + 100_000 // len(block)) + data[end:]
    if what == 5:
        other = rng.randrange(len(data))
        return data[:start] + data[other : other + len(block)] + data[start + len(block) :]
    if what == 6:
        width = rng.choice((1, 2, 4, 8))
        # Lengths and offsets in files are numbers like these.
        value = rng.choice(
            (0, 1, 2**31, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), len(data), rng.randrange(1 << 16))
        )
        packed = (value % 2 ** (8 * width)).to_bytes(width, rng.choice(('little', 'big')))
        return data[:start] + packed + data[start + width :]
    if what == 7:
        return data + rng.randbytes(rng.choice((1, 7, 1000)))
    return data[:start] + bytes([rng.randrange(256)]) * rng.choice((1, 5, 3000)) + data[start:]


# Text that a YAML document can have in place of a value.
FRAGMENTS: tuple[str, ...] = (
    '&a [*a]', '&a {a: *a}', '{<<: {<<: {a: 1}}}', '*unknown', '!!python/object/apply:os.getcwd []', '!x bar',
    '!!binary "????"', '!!int ""', '!!int "0b"', '!!float "x"', '!!timestamp "x"', '2001-99-99',
    '2001-01-01T99:99:99Z', '1:60:60', '190:20:30.15', '0o777777777777777777777777', '0x' + 'f' * 5000,
    '9' * 5000, '=', '<<', '~', '!!set {a, b}', '!!omap [a: 1]', '!!pairs [a: 1]', '{? [a]: 1}',
    '{? {a: 1}: 1}', '|\n  text', '"\\ud800"', '"\\x"', '{{a: 1}: 2}',
    '[' * 3000 + ']' * 3000, '{a: ' * 1500 + '1' + '}' * 1500, '- ' * 2000, '"' + 'x' * 20000 + '"',
    '!!null x', '!!bool x', '!!str [a]', '!!seq {a: 1}', '!!map [a]', '%YAML 9.9', '{a: 1, a: 2}',
)  # fmt: skip


def bomb(rng: Random) -> str:
    """A YAML value that takes exponential memory or time to expand."""
    levels, width = rng.choice(((4, 9), (9, 9), (30, 2), (12, 6)))
    mapping = rng.random() < 0.5
    text = '&z0 {a: 1}' if mapping else '&z0 [1, 1]'
    for level in range(1, levels):
        known = [f'*z{level - 1}'] * (width - 1)
        if mapping:
            text = f'&z{level} {{<<: [{", ".join([text, *known])}], k{level}: 1}}'
        else:
            text = f'&z{level} [{", ".join([text, *known])}]'
    return text


_MARK = 'PLACE-OF-A-FRAGMENT'
_DUMPER = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


def yaml_case(tree: Tree, rng: Random) -> bytes:
    """A damaged YAML document: changed values, then fragments and bombs, then changed bytes."""
    tree = changed(tree, rng, rng.choice((0, 1, 1, 1, 2, 4)))
    fragment = rng.random() < 0.2
    if fragment:
        places = list(paths(tree))
        place = rng.choice(places)
        if place:
            at(tree, place[:-1])[place[-1]] = _MARK
        else:
            tree = _MARK
    try:
        text = yaml.dump(
            tree, Dumper=_DUMPER, sort_keys=False, default_flow_style=rng.choice((None, True, False))
        )
    except (yaml.YAMLError, RecursionError, ValueError, UnicodeError):
        # A value that YAML cannot write.
        text = repr(tree)
    if fragment:
        text = text.replace(_MARK, bomb(rng) if rng.random() < 0.2 else rng.choice(FRAGMENTS))
    return _encoded(text, rng)


def json_case(tree: Tree, rng: Random) -> bytes:
    """A damaged JSON document: changed values, then changed bytes."""
    tree = changed(tree, rng, rng.choice((0, 1, 1, 1, 2, 4)))
    try:
        text = json.dumps(tree)
    except (ValueError, TypeError):
        text = repr(tree)
    if rng.random() < 0.05:
        deep = rng.choice((900, 20_000, 100_000))
        text = text.replace(rng.choice(('1', '"', '0', ' ')), '[' * deep + ']' * deep, 1)
    return _encoded(text, rng)


def _encoded(text: str, rng: Random) -> bytes:
    data = text.encode(rng.choice(('utf-8',) * 8 + ('utf-16', 'latin-1')), 'replace')
    return damaged(data, rng, rng.choice((1, 2, 5))) if rng.random() < 0.2 else data


def number_of_type(rng: Random, low: int, high: int) -> int:
    """An integer of a fixed range, as a field of a message has."""
    value = rng.choice(
        (low, high, low + 1, high - 1, 0, 1, 2, 3, rng.randint(low, high), rng.choice(NUMBERS[:26]))
    )
    return min(max(int(value), low), high)


def not_finite(value: Any, where: str = 'result') -> str:
    """Where a result holds a number that is not finite; empty if nowhere."""
    if isinstance(value, np.ndarray):
        bad = value[~np.isfinite(value)] if value.dtype.kind in 'fc' else value[:0]
        return f'{where} holds {bad[0]}' if bad.size else ''
    if isinstance(value, float | np.floating):
        return '' if np.isfinite(value) else f'{where} is {value}'
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif fields := getattr(type(value), '__dataclass_fields__', getattr(type(value), 'model_fields', None)):
        items = ((name, getattr(value, name)) for name in fields)
    return next((problem for key, each in items if (problem := not_finite(each, f'{where}.{key}'))), '')
