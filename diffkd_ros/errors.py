# SPDX-License-Identifier: Apache-2.0
"""The errors of this package; the command line catches them once, in `diffkd_ros.cli.main`."""

from __future__ import annotations


class DiffkdError(Exception):
    """An error the user can mend: one sentence that says what came, what was expected and where."""


class MissingExtra(DiffkdError):  # noqa: N818
    """A job needs a package that is not installed.

    Args:
        name: of the module that is missing.
        extra: of this package that brings it.
    """

    def __init__(self, name: str, extra: str) -> None:
        super().__init__(f"{name} is missing: pip install 'diffkd-ros[{extra}]'")
        self.name, self.extra = name, extra
