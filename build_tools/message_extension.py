# SPDX-License-Identifier: Apache-2.0
"""Compiles the generated C and C++ sources of the messages into one Python extension module."""

import os
import shlex
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from message_sources import INTROSPECTION, TYPE_SUPPORT, MessagePackage
from ros_prefix import prefix_of

SOURCE_FOLDERS = ('c', 'fastrtps', 'introspection', 'typesupport', 'python')

# Libraries that the generated sources of every message call.
RUNTIME_LIBRARIES = (
    'rosidl_runtime_c',
    'rosidl_typesupport_c',
    'rosidl_typesupport_fastrtps_c',
    'rosidl_typesupport_fastrtps_cpp',
    'rosidl_typesupport_introspection_c',
    'fastcdr',
    'rcutils',
    'rmw',
)


class MessageCompilationError(RuntimeError):
    """The C or C++ compiler is missing or failed."""


def compile_extension(package: MessagePackage, sources: Path) -> Path:
    """Compile the output of `generate_sources` in `sources`; returns the extension module.

    The environment variables `CC` and `CXX` name the compilers, `cc` and `c++` by default.

    Raises:
        MessageCompilationError: with the command and the output of the compiler.
    """
    prefixes = list(
        dict.fromkeys(prefix_of(name) for name in (*package.dependencies, 'rosidl_runtime_c', TYPE_SUPPORT))
    )
    c_compiler = [*shlex.split(os.environ.get('CC', 'cc')), '-std=gnu11']
    cpp_compiler = [*shlex.split(os.environ.get('CXX', 'c++')), '-std=c++17']
    # Warnings of generated sources cannot be fixed here.
    flags = ['-O2', '-fPIC', '-w', *_include_flags(sources, prefixes), '-c']

    def compile_one(source: Path) -> str:
        target = source.with_name(source.name + '.o')
        compiler = c_compiler if source.suffix == '.c' else cpp_compiler
        _run([*compiler, *flags, str(source), '-o', str(target)])
        return str(target)

    files = [
        source
        for folder in SOURCE_FOLDERS
        for pattern in ('*.c', '*.cpp')
        for source in sorted((sources / folder).rglob(pattern))
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, files))

    extension = sources / 'python' / package.name / f'{package.name}_s__rosidl_typesupport_c.so'
    library_folders = [prefix / 'lib' for prefix in prefixes]
    _run(
        [
            *cpp_compiler,
            '-shared',
            '-o',
            str(extension),
            *objects,
            *(f'-L{folder}' for folder in library_folders),
            *(f'-l{name}' for name in _message_libraries(package, library_folders)),
            *(f'-l{name}' for name in RUNTIME_LIBRARIES),
            '-Wl,--as-needed',
            '-Wl,--allow-shlib-undefined',
            # From lib/python3.x/site-packages/<package>/ to lib/, where the ROS wheels put their libraries.
            '-Wl,-rpath,$ORIGIN/../../..',
        ]
    )
    return extension


def _include_flags(sources: Path, prefixes: Sequence[Path]) -> list[str]:
    """The `-I` flags for the generated headers, the ROS packages, Python and NumPy."""
    folders = [sources / folder for folder in SOURCE_FOLDERS]
    for prefix in prefixes:
        # Both levels: most packages install to include/<package>/<package>/, fastcdr to include/fastcdr/.
        folders += sorted(child for child in (prefix / 'include').iterdir() if child.is_dir())
        folders.append(prefix / 'include')
    folders += [Path(sysconfig.get_paths()['include']), Path(numpy.get_include())]
    return [f'-I{folder}' for folder in folders]


def _message_libraries(package: MessagePackage, folders: Sequence[Path]) -> list[str]:
    """The existing libraries of the messages that ours contain."""
    names = [
        f'{dependency}__{part}'
        for dependency in package.dependencies
        for part in (
            'rosidl_generator_c',
            'rosidl_generator_py',
            TYPE_SUPPORT,
            INTROSPECTION,
            'rosidl_typesupport_c',
        )
    ]
    return [name for name in names if any((folder / f'lib{name}.so').exists() for folder in folders)]


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MessageCompilationError(
            f'no compiler {command[0]!r}: install a C and a C++ compiler (Debian, Ubuntu: build-essential)'
        ) from error
    if done.returncode != 0:
        raise MessageCompilationError(f'{shlex.join(command)}\n{done.stdout}{done.stderr}')
