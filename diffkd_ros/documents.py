# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON files written by others: bounded in size, typed, and one rule for the numbers in them."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from diffkd_ros.errors import DiffkdError

LARGEST = 1e8
"""Bound of coordinates, metres; those of UTM and of geocentric frames are below it."""
_YAML_BYTES = 2 * 2**20
_JSON_BYTES = 256 * 2**20
_MOST_NODES = 100_000
_DEEPEST = 64
_SAFE_LEVELS = 500
_LONGEST_NUMBER = 500
_MOST_PROBLEMS = 8
_UNKNOWN_KEY = ('extra_forbidden', 'unexpected_keyword_argument')
_NUMERIC_TAGS = ('tag:yaml.org,2002:int', 'tag:yaml.org,2002:float')
_NUMPY_TYPE = re.compile(r'[<>|][fiu][1248]')

Config = TypeVar('Config', bound=BaseModel)

_SafeLoader: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Plain values only. A value with an unknown tag is read as if it had none."""

    def construct_undefined(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return self.construct_sequence(node, deep=True)
        return self.construct_scalar(node)

    def construct_numpy(self, name: str, node: yaml.Node) -> Any:
        """Numbers and arrays of numbers that PyYAML has written from NumPy's, which V2V4Real's files hold."""
        value = self.construct_undefined(node)
        try:
            match name.rpartition('.')[2]:
                case 'dtype':
                    code = value['state'][1] + value['args'][0]
                    return np.dtype(code) if _NUMPY_TYPE.fullmatch(code) else value
                case 'scalar':
                    dtype, data = value
                    return _array(data, dtype)[0].item()
                case '_reconstruct':
                    _, shape, dtype, by_column, data = value['state']
                    return _array(data, dtype).reshape(shape, order='F' if by_column else 'C').tolist()
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            pass
        return value


def _array(data: Any, dtype: Any) -> NDArray[Any]:
    if not (isinstance(data, bytes) and isinstance(dtype, np.dtype)):
        raise TypeError('not an array of numbers')
    return np.frombuffer(data, dtype)


_Loader.add_constructor(None, _Loader.construct_undefined)
_Loader.add_multi_constructor('tag:yaml.org,2002:python/object/apply:numpy.', _Loader.construct_numpy)


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values.

    Unknown tags are ignored. Aliases and merge keys count as if they were written out, so that the document
    is small in memory and to every later reader.

    Raises:
        DiffkdError: if the file is missing, is not UTF-8 or YAML, or exceeds 2 MiB, 100,000 values or 64
            levels. The message does not name the file.
    """
    return _guarded(lambda: _parse_yaml(read_bytes(path, _YAML_BYTES)))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DiffkdError: if the file is missing, is not JSON or exceeds 256 MiB. The message does not name the
            file.
    """
    return _guarded(lambda: json.loads(read_bytes(path, _JSON_BYTES)))


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DiffkdError: as for `read_json`, or if it holds something else; the message names the file.
    """
    try:
        content = read_json(path)
    except DiffkdError as error:
        raise DiffkdError(f'{path} is not readable: {error}') from error
    if not isinstance(content, dict):
        raise DiffkdError(f'{path}: expected an object, got {type(content).__name__}')
    return content


def _guarded(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except DiffkdError:
        raise
    except RecursionError as error:
        raise DiffkdError('nested too deeply') from error
    except OSError as error:
        raise DiffkdError(error.strerror or str(error)) from error
    # The parsers raise various errors for damaged bytes, impossible dates and numbers that are too long.
    except Exception as error:
        raise DiffkdError(' '.join(str(error).replace(' in "<byte string>"', '').split())) from error


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of at most so many bytes.

    Raises:
        DiffkdError: if it is larger, or not a file. The message does not name it.
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise DiffkdError('not a file')
    if size > most:
        raise DiffkdError(f'larger than {most / 2**20:g} MiB')
    with path.open('rb') as file:
        return file.read(size)


def _parse_yaml(content: bytes) -> Any:
    # LibYAML's composer recurses in C, and a document of many levels would end the process. A level needs a
    # bracket or a column, so that most documents need no scan.
    brackets = content.count(b'[') + content.count(b'{')
    if max(brackets, *map(len, content.split(b'\n'))) > _SAFE_LEVELS:
        _scan(content)
    loader = _Loader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _scan(content: bytes) -> None:
    """Count the levels without recursion.

    Raises:
        DiffkdError: if there are too many.
    """
    level = 0
    for event in yaml.parse(content, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1
        if level > _DEEPEST:
            raise DiffkdError(f'more than {_DEEPEST} levels')


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Number of nodes and levels of a document with all aliases written out.

    Raises:
        DiffkdError: if it is too large or too deep, or contains itself.
    """
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise DiffkdError('an alias contains itself')
        return measured
    if len(known) >= _MOST_NODES:
        raise DiffkdError(f'more than {_MOST_NODES} values')
    known[id(node)] = None
    count, levels = 1, 1
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _NUMERIC_TAGS and len(node.value) > _LONGEST_NUMBER:
            raise DiffkdError(f'a number of {len(node.value)} characters')
    else:
        pairs = isinstance(node, yaml.MappingNode)
        for child in (part for pair in node.value for part in pair) if pairs else node.value:
            below, height = _measure(child, known)
            count, levels = count + below, max(levels, height + 1)
            if count > _MOST_NODES:
                raise DiffkdError(f'more than {_MOST_NODES} values, aliases written out')
            if levels > _DEEPEST:
                raise DiffkdError(f'more than {_DEEPEST} levels')
    known[id(node)] = count, levels
    return count, levels


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read a YAML file of one of this package's own formats, whose numbers are all finite.

    Raises:
        DiffkdError: if the file is not readable, or a key is unknown or a value invalid; the message names
            the file, the keys, and for an unknown key the nearest known one.
    """
    try:
        content = read_yaml(path)
        _require_finite(content)
        return kind.model_validate(content)
    except ValidationError as error:
        raise DiffkdError(f'{path}: {explained(error, kind)}') from error
    # Finite numbers that a validator divides by each other or rounds.
    except (ArithmeticError, DiffkdError) as error:
        raise DiffkdError(f'{path}: {error}') from error


def _require_finite(value: Any, where: str = '') -> None:
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            _require_finite(part, f'{where}.{key}' if where else str(key))
    elif isinstance(value, int | float) and not abs(value) < math.inf:
        raise DiffkdError(f'{where or "the document"}: not a finite number')


def explained(error: ValidationError, kind: type[BaseModel]) -> str:
    """The problems of a document in one line."""
    problems = []
    for problem in error.errors(include_url=False)[:_MOST_PROBLEMS]:
        where = '.'.join(str(part) for part in problem['loc'])
        if problem['type'] in _UNKNOWN_KEY:
            near = difflib.get_close_matches(str(problem['loc'][-1]), _known_keys(kind), n=1)
            problems.append(f'unknown key {where}' + (f', did you mean {near[0]}?' if near else ''))
        else:
            message = problem['msg'].removeprefix('Value error, ')
            problems.append(f'{where}: {message}' if where else message)
    if more := error.error_count() - len(problems):
        problems.append(f'and {more} more problems')
    return '; '.join(problems)


def _known_keys(kind: Any) -> set[str]:
    """Keys of a pydantic model or dataclass and of the sections within it."""
    inner = set().union(*map(_known_keys, get_args(kind)))
    names = getattr(kind, 'model_fields', None) or getattr(kind, '__dataclass_fields__', None)
    if isinstance(kind, type) and names:
        hints = get_type_hints(kind)
        return inner.union(names, *(_known_keys(hints[name]) for name in names))
    return inner


def shown(value: object) -> str:
    """A value for an error message, cut to 80 characters."""
    try:
        return f'{value!r:.80}'
    except ValueError:  # Python does not print integers of more than 4300 digits.
        return f'a {type(value).__name__}'


def user_path(text: str | Path) -> Path:
    """A path as people write it, with ~ expanded; unchanged if there is no such user."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        return Path(text)


def number(value: Any, low: float = -LARGEST, high: float = LARGEST) -> float:
    """A finite number in [low, high], also if written as text.

    Raises:
        DiffkdError: if it is anything else.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            result = float(value)
        except (ValueError, OverflowError):
            result = np.nan
        if low <= result <= high:
            return result
    raise DiffkdError(f'expected a number in [{low:g}, {high:g}], got {shown(value)}')


def numbers(values: Any, *shape: int, limit: float = LARGEST) -> NDArray[np.float64]:
    """An array of this shape of finite numbers, none larger than the limit in magnitude.

    Raises:
        DiffkdError: if it is anything else.
    """
    try:
        result = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        result = np.zeros(0)
    if result.shape != shape or not (np.abs(result) <= limit).all():
        size = ' x '.join(map(str, shape))
        raise DiffkdError(f'expected {size} finite numbers up to {limit:g}, got {shown(values)}')
    return result


def integer(value: Any, low: int = -(2**63) + 1, high: int = 2**63 - 1) -> int:
    """An integer in [low, high], also if written as text or with a decimal point.

    Raises:
        DiffkdError: if it is anything else.
    """
    text = isinstance(value, str) and re.fullmatch(r'-?[0-9]{1,19}', value)
    if text or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise DiffkdError(f'expected an integer in [{low}, {high}], got {shown(value)}')
