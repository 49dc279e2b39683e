# SPDX-License-Identifier: Apache-2.0
"""Imports scripts outside the package as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PROJECT = Path(__file__).parents[1]


def load_script(path: Path) -> ModuleType:
    """Import a script as a module, without running its main program."""
    spec = importlib.util.spec_from_file_location(path.name.replace('.', '_'), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def build_tool(name: str) -> ModuleType:
    """A script of build_tools/, by its name without suffix."""
    return load_script(PROJECT / 'build_tools' / f'{name}.py')
