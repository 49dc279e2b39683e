# SPDX-License-Identifier: Apache-2.0
"""Generates the C and Python sources of the package's messages by calling the rosidl generators.

CMake's `rosidl_generate_interfaces` does the same for `colcon build`. Here the Python functions of the
generators are called directly, because the command `rosidl generate` finds each entry point of the ROS
wheels twice and fails.

`rosidl_typesupport_c` would load each type support from its own library at run time. The generated C code
that replaces it refers to two of them directly, so that all messages fit into one extension module. The
messages then work with `rmw_fastrtps_cpp` only: `rosidl_typesupport_fastrtps_c` serialises them, and the
middleware of Jazzy reads the fields from `rosidl_typesupport_introspection_c`.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ros_prefix import share_of

TYPE_SUPPORT = 'rosidl_typesupport_fastrtps_c'
INTROSPECTION = 'rosidl_typesupport_introspection_c'

_DISPATCH_HEAD = """\
#include <stddef.h>
#include <string.h>
#include "rosidl_runtime_c/message_type_support_struct.h"
#include "rosidl_typesupport_c/identifier.h"
#include "rosidl_typesupport_interface/macros.h"
"""
# For one message: the handle that rclpy gets, which returns either type support.
_DISPATCH = """
#include "{package}/msg/detail/{header}__functions.h"

const rosidl_message_type_support_t *
ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME({fast}, {package}, msg, {message})(void);
const rosidl_message_type_support_t *
ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME({introspection}, {package}, msg, {message})(void);

static const rosidl_message_type_support_t *
{message}_dispatch(const rosidl_message_type_support_t * handle, const char * identifier)
{{
  const rosidl_message_type_support_t * known[] = {{
    handle,
    ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME({fast}, {package}, msg, {message})(),
    ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME({introspection}, {package}, msg, {message})(),
  }};
  for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); ++i) {{
    if (strcmp(known[i]->typesupport_identifier, identifier) == 0) {{
      return known[i];
    }}
  }}
  return NULL;
}}

const rosidl_message_type_support_t *
ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME(rosidl_typesupport_c, {package}, msg, {message})(void)
{{
  static rosidl_message_type_support_t handle = {{
    NULL, NULL, {message}_dispatch,
    &{package}__msg__{message}__get_type_hash,
    &{package}__msg__{message}__get_type_description,
    &{package}__msg__{message}__get_type_description_sources,
  }};
  handle.typesupport_identifier = rosidl_typesupport_c__typesupport_identifier;
  return &handle;
}}
"""


@dataclass(frozen=True)
class MessagePackage:
    """The messages of one package.

    Attributes:
        name: ROS package name.
        root: source folder of the package, with the messages in `msg/*.msg`.
        dependencies: ROS packages whose messages they contain.
    """

    name: str
    root: Path
    dependencies: tuple[str, ...]

    @property
    def definitions(self) -> list[Path]:
        """The message definitions, sorted by name."""
        return sorted((self.root / 'msg').glob('*.msg'))


def generate_sources(package: MessagePackage, destination: Path) -> None:
    """Write the C and Python sources of `package` into `destination`, which is emptied first.

    The subfolders are `c`, `fastrtps`, `introspection` and `typesupport` (C and C++ sources and headers,
    each an include root) and `python` (the importable modules and the C source of their converters).
    """
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c import generate_c
    from rosidl_generator_py import generate_py
    from rosidl_generator_type_description import generate_type_hash
    from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
    from rosidl_typesupport_introspection_c import generate_c as generate_introspection

    shutil.rmtree(destination, ignore_errors=True)
    idl_root = destination / 'idl' / package.name
    (idl_root / 'msg').mkdir(parents=True)
    for definition in package.definitions:
        convert_msg_to_idl(package.root, package.name, definition.relative_to(package.root), idl_root / 'msg')

    def arguments(generator: str, folder: str) -> str:
        return _write_arguments(package, destination, generator, folder)

    generate_type_hash(arguments('rosidl_generator_type_description', 'descriptions'))
    folders = {'rosidl_generator_c': 'c', TYPE_SUPPORT: 'fastrtps', INTROSPECTION: 'introspection'}
    for generator, folder in folders.items():
        _write_visibility_header(package.name, generator, destination / folder)
    generate_c(arguments('rosidl_generator_c', 'c'))
    generate_typesupport_fastrtps_c(arguments(TYPE_SUPPORT, 'fastrtps'))
    generate_introspection(arguments(INTROSPECTION, 'introspection'))
    _write_dispatch(package, destination / 'typesupport')
    generate_py(arguments('rosidl_generator_py', 'python'), ['rosidl_typesupport_c'])


def _write_dispatch(package: MessagePackage, folder: Path) -> None:
    """Write the replacement for `rosidl_typesupport_c`."""
    from rosidl_pycommon import convert_camel_case_to_lower_case_underscore

    text = _DISPATCH_HEAD
    for definition in package.definitions:
        text += _DISPATCH.format(
            package=package.name,
            message=definition.stem,
            header=convert_camel_case_to_lower_case_underscore(definition.stem),
            fast=TYPE_SUPPORT,
            introspection=INTROSPECTION,
        )
    folder.mkdir()
    (folder / 'dispatch.c').write_text(text, encoding='utf-8')


def _write_arguments(package: MessagePackage, destination: Path, generator: str, folder: str) -> str:
    """Write the arguments file of a generator, whose output goes to `destination/folder/<package>`."""
    idl_root = destination / 'idl' / package.name
    descriptions = destination / 'descriptions' / package.name
    names = [definition.stem for definition in package.definitions]
    content = {
        'package_name': package.name,
        'output_dir': str(destination / folder / package.name),
        'template_dir': str(share_of(generator) / 'resource'),
        'idl_tuples': [f'{idl_root}:msg/{name}.idl' for name in names],
        'ros_interface_files': [str(definition) for definition in package.definitions],
        'ros_interface_dependencies': [
            f'{dependency}:{idl}'
            for dependency in package.dependencies
            for idl in sorted(share_of(dependency).glob('*/*.idl'))
        ],
        'include_paths': [f'{dependency}:{share_of(dependency)}' for dependency in package.dependencies],
        'type_description_tuples': [f'msg/{name}.idl:{descriptions}/msg/{name}.json' for name in names],
        'target_dependencies': [],
    }
    path = destination / f'{generator}.json'
    path.write_text(json.dumps(content, indent=1), encoding='utf-8')
    return str(path)


def _write_visibility_header(package: str, generator: str, include_root: Path) -> None:
    """Write the visibility header of `generator`, which CMake would otherwise generate."""
    name = f'{generator}__visibility_control.h'
    template = (share_of(generator) / 'resource' / f'{name}.in').read_text(encoding='utf-8')
    header = include_root / package / 'msg' / name
    header.parent.mkdir(parents=True)
    header.write_text(
        template.replace('@PROJECT_NAME_UPPER@', package.upper()).replace('@PROJECT_NAME@', package),
        encoding='utf-8',
    )
