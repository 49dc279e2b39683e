# SPDX-License-Identifier: Apache-2.0
"""The compiled messages match the definitions in msg/, and their type support loads."""

import re
from pathlib import Path

import numpy as np
import pytest

messages = pytest.importorskip('diffkd_ros.msg', reason='diffkd_ros.msg is not built in this environment')

DEFINITIONS = sorted((Path(__file__).parents[2] / 'msg').glob('*.msg'))
# How rosidl's Python classes name the basic types of a .msg file.
PYTHON_NAMES = {'float32': 'float', 'float64': 'double', 'bool': 'boolean'}


def fields_and_constants(definition: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Parse a .msg file: {field: type as rosidl's Python classes name it}, {constant: value}."""
    fields, constants = {}, {}
    for line in definition.read_text().splitlines():
        text = line.split('#')[0].strip()
        if not text:
            continue
        type_name, rest = text.split(maxsplit=1)
        if '=' in rest:
            name, value = rest.split('=')
            constants[name.strip()] = int(value)
            continue
        element, array, size = re.fullmatch(r'([\w/]+)(\[(\d*)\])?', type_name).groups()
        element = PYTHON_NAMES.get(element, element)
        if (definition.parent / f'{element}.msg').exists():
            element = f'diffkd_ros/{element}'
        if array:
            element = f'{element}[{size}]' if size else f'sequence<{element}>'
        fields[rest] = element
    return fields, constants


@pytest.mark.parametrize('definition', DEFINITIONS, ids=lambda path: path.stem)
def test_compiled_message_has_the_fields_and_constants_of_its_definition(definition):
    compiled = getattr(messages, definition.stem)
    fields, constants = fields_and_constants(definition)
    assert compiled.get_fields_and_field_types() == fields
    for name, value in constants.items():
        assert getattr(compiled, name) == value


def test_feature_survives_serialization():
    serialization = pytest.importorskip('rclpy.serialization')
    payload = np.arange(100_000, dtype=np.uint32).view(np.uint8)
    sent = messages.BevFeature(agent_id='7', sequence=2**32 - 1, model_id='m@0123456789ab', width=128)
    sent.grid_range = np.array([-51.2, -25.6, -3.0, 51.2, 25.6, 1.0], np.float32)
    sent.pose.covariance[35] = 0.25
    sent.data.frombytes(memoryview(payload))
    received = serialization.deserialize_message(serialization.serialize_message(sent), messages.BevFeature)
    assert received == sent
    np.testing.assert_array_equal(np.frombuffer(received.data, np.uint8), payload)


def test_nested_message_survives_serialization():
    serialization = pytest.importorskip('rclpy.serialization')
    neighbour = messages.NeighbourStatus(agent_id='3', reason='stale', age=0.5, bytes=400_000)
    sent = messages.FusionStatus(neighbours=[neighbour], stages=['total'], latency_ms=[12.5])
    received = serialization.deserialize_message(serialization.serialize_message(sent), messages.FusionStatus)
    assert received == sent
