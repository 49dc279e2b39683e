# SPDX-License-Identifier: Apache-2.0
"""Typed parameters: a table is a frozen dataclass whose fields are created by `parameter`.

The annotation of a field is the parameter's type; its metadata hold description, range and choices. `declare`
declares every field on the node and returns the dataclass with the values. rclpy ignores values given for
undeclared parameters, so that a misspelt name in a YAML file would have no effect; here it is an error.

Parameters are read once, at start. Those declared with `live` can be changed while the node runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, field, fields, replace
from typing import Any, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from diffkd_ros.errors import DiffkdError
from diffkd_ros.nodes.base import qos

Table = TypeVar('Table')

# Parameters of rclpy itself.
_BUILT_IN = {'use_sim_time', 'start_type_description_service'}

_KINDS: dict[Any, tuple[type, str]] = {
    bool: (bool, 'a bool'),
    int: (int, 'an int'),
    float: (float, 'a float'),
    str: (str, 'a string'),
    tuple[int, ...]: (int, 'a list of ints'),
    tuple[float, ...]: (float, 'a list of floats'),
    tuple[str, ...]: (str, 'a list of strings'),
}


def parameter(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A field of a parameter table.

    Args:
        default: value without an override; a tuple must not be empty, because rclpy infers its type.
        description: one sentence, with the unit.
        minimum: smallest value allowed, for numbers.
        maximum: largest value allowed, for numbers.
        choices: values allowed, for strings.
        live: it can be changed while the node runs.
    """
    metadata = {
        'description': description,
        'minimum': minimum,
        'maximum': maximum,
        'choices': choices,
        'live': live,
    }
    return field(default=default, metadata=metadata)


def _checked(name: str, value: Any, kind: Any, metadata: Any) -> Any:
    """The value converted to the annotated type (only int to float), checked for range and choices."""
    scalar, words = _KINDS[kind]

    def convert(item: Any) -> Any:
        if scalar is float and isinstance(item, int) and not isinstance(item, bool):
            item = float(item)
        if not isinstance(item, scalar) or (isinstance(item, bool) and scalar is not bool):
            raise DiffkdError(f'parameter {name} must be {words}, got {value!r}')
        return item

    listed = kind not in (bool, int, float, str)
    if listed and (isinstance(value, str) or not isinstance(value, Iterable)):
        raise DiffkdError(f'parameter {name} must be {words}, got {value!r}')
    result = tuple(convert(item) for item in value) if listed else convert(value)
    low, high, choices = metadata['minimum'], metadata['maximum'], metadata['choices']
    for item in result if listed else (result,):
        if (low is not None and not item >= low) or (high is not None and not item <= high):
            limits = f'{"-inf" if low is None else low} to {"inf" if high is None else high}'
            raise DiffkdError(f'parameter {name} must lie in {limits}, got {value!r}')
        if choices and item not in choices:
            raise DiffkdError(f'parameter {name} must be one of {", ".join(choices)}, got {value!r}')
    return result


def _descriptor(spec: Field, kind: Any) -> ParameterDescriptor:
    metadata = spec.metadata
    descriptor = ParameterDescriptor(description=metadata['description'], read_only=not metadata['live'])
    if metadata['choices']:
        descriptor.additional_constraints = f'one of {", ".join(metadata["choices"])}'
    low, high = metadata['minimum'], metadata['maximum']
    if kind is int and (low is not None or high is not None):
        low, high = (-(2**63) if low is None else int(low)), (2**63 - 1 if high is None else int(high))
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
    elif kind is float and (low is not None or high is not None):
        low, high = (
            (float('-inf') if low is None else float(low)),
            (float('inf') if high is None else float(high)),
        )
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor


def declare(node: Node, table: type[Table], changed: Callable[[Table], None] | None = None) -> Table:
    """Declare the parameters of a table on a node and return their values.

    Args:
        node: that has the parameters.
        table: of the parameters.
        changed: called in the executor's thread with the new values when live parameters were set; needed if
            the table has any.

    Raises:
        DiffkdError: if an override has a name that is not in the table (the nearest known one is suggested),
            or a value of the wrong type or out of range.
    """
    specs = {spec.name: spec for spec in fields(table)}  # type: ignore[arg-type]
    overrides = node._parameter_overrides
    for name in overrides:
        if name.startswith(qos.OVERRIDES):
            error = qos.override_error(name, overrides[name].value)
            if error:
                raise DiffkdError(error)
        elif name not in specs and name not in _BUILT_IN:
            near = difflib.get_close_matches(name, specs, n=1, cutoff=0.5)
            hint = f'; did you mean {near[0]}?' if near else ''
            raise DiffkdError(
                f'{node.get_name()} has no parameter {name}{hint} (it has: {", ".join(sorted(specs))})'
            )
    kinds = get_type_hints(table)
    values = {}
    for name, spec in specs.items():
        given = overrides[name].value if name in overrides else spec.default
        values[name] = _checked(name, given, kinds[name], spec.metadata)
        value = list(values[name]) if isinstance(values[name], tuple) else values[name]
        node.declare_parameter(name, value, _descriptor(spec, kinds[name]), ignore_override=True)
    current = table(**values)

    def change(parameters: Sequence[Parameter]) -> SetParametersResult:
        nonlocal current
        given = {p.name: p.value for p in parameters if p.name in specs}
        try:
            new = {n: _checked(n, value, kinds[n], specs[n].metadata) for n, value in given.items()}
        except DiffkdError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if new and changed is not None:
            # rclpy has checked the descriptors before, so nothing can refuse the values any more.
            current = replace(current, **new)  # type: ignore[type-var]
            changed(current)
            node.get_logger().info('set ' + ', '.join(f'{n} to {value}' for n, value in new.items()))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(change)
    return current


def refusal(node: Node, names: Iterable[str]) -> str:
    """Why parameters of these names cannot be set while the node runs; empty if they can."""
    fixed = [n for n in names if node.has_parameter(n) and node.describe_parameter(n).read_only]
    if not fixed:
        return ''
    live = sorted(n for n, descriptor in node._descriptors.items() if not descriptor.read_only)
    return (
        f'{", ".join(fixed)} is only read at start: restart {node.get_fully_qualified_name()} with the new '
        f'value; while it runs only {", ".join(live)} can be set'
    )
