# SPDX-License-Identifier: Apache-2.0
"""Writes the parameter tables of the nodes into docs/, from the dataclasses that declare the parameters.

    python build_tools/document_parameters.py

A table is between `<!-- parameters of NODE -->` and `<!-- end -->`.
"""

import re
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import get_type_hints

from diffkd_ros.cosim.bridge_node import BridgeParameters
from diffkd_ros.cosim.gateway_node import GatewayParameters
from diffkd_ros.nodes.autoware_node import AutowareParameters
from diffkd_ros.nodes.cpm_node import CpmParameters
from diffkd_ros.nodes.ego_node import EgoParameters
from diffkd_ros.nodes.evaluator_node import EvaluatorParameters
from diffkd_ros.nodes.perception.parameters import EncodingParameters
from diffkd_ros.nodes.player_node import PlayerParameters
from diffkd_ros.nodes.recorder_node import RecorderParameters
from diffkd_ros.nodes.vehicle_node import VehicleParameters

DOCS = Path(__file__).resolve().parent.parent / 'docs'
PAGES = tuple(DOCS / name for name in ('parameters.md', 'carla.md', 'opencda.md'))
TABLES: Mapping[str, type] = {
    'vehicle_node': VehicleParameters,
    'ego_node': EgoParameters,
    'autoware_node': AutowareParameters,
    'cpm_node': CpmParameters,
    'player_node': PlayerParameters,
    'evaluator_node': EvaluatorParameters,
    'recorder_node': RecorderParameters,
    'bridge_node': BridgeParameters,
    'gateway_node': GatewayParameters,
}
_BLOCK = re.compile(r'(<!-- parameters of (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
_KINDS = {
    bool: 'bool',
    int: 'int',
    float: 'float',
    str: 'string',
    tuple[int, ...]: 'list of int',
    tuple[float, ...]: 'list of float',
    tuple[str, ...]: 'list of string',
}


def _allowed(spec: Field) -> str:
    low, high, choices = (spec.metadata[name] for name in ('minimum', 'maximum', 'choices'))
    if choices:
        return ', '.join(f'`{choice}`' for choice in choices)
    if low is None and high is None:
        return ''
    if high is None:
        return f'≥ {low:g}'
    return f'≤ {high:g}' if low is None else f'{low:g} to {high:g}'


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return '[' + ', '.join(_shown(item) for item in value) + ']'
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if value == '' else str(value)


def rows(table: type, left_out: frozenset[str] = frozenset()) -> list[str]:
    """The lines of a Markdown table."""
    kinds = get_type_hints(table)
    lines = [
        '| parameter | type | default | allowed | read-only | what it is |',
        '|---|---|---|---|---|---|',
    ]
    return lines + [
        f'| `{spec.name}` | {_KINDS[kinds[spec.name]]} | `{_shown(spec.default)}` | {_allowed(spec)} '
        f'| {"no" if spec.metadata["live"] else "yes"} | {spec.metadata["description"]} |'
        for spec in fields(table)
        if spec.name not in left_out
    ]


def documented(page: str) -> str:
    """The page with every table up to date.

    The ego has all parameters of a vehicle but the bandwidth; its table lists only its additional ones.
    """

    def block(match: re.Match[str]) -> str:
        node = match[2]
        shared = {spec.name for spec in fields(EncodingParameters)} if node == 'ego_node' else set()
        return f'{match[1]}{chr(10).join(rows(TABLES[node], frozenset(shared)))}\n{match[3]}'

    return _BLOCK.sub(block, page)


if __name__ == '__main__':
    for page in PAGES:
        page.write_text(documented(page.read_text()))
