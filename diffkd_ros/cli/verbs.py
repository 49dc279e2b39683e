# SPDX-License-Identifier: Apache-2.0
"""What the verbs of the command line share: errors, interruption, progress and help."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from typer.core import TyperGroup

from diffkd_ros.errors import DiffkdError, missing_extra
from diffkd_ros.workers import usable_cores

# Faults of the machine, such as a full disk, which may show anywhere.
_MACHINE = {
    *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE),
    *(errno.ENOMEM, errno.ENOSPC, errno.EPERM, errno.EROFS),
}


class Verbs(TyperGroup):
    """A group of verbs.

    An error that the user can correct ends a verb with one line, `diffkd VERB: message`, and exit code 1.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except DiffkdError as error:
            shown: DiffkdError = error
        except ModuleNotFoundError as error:
            missing = missing_extra(error)
            if missing is None:
                raise
            shown = missing
        except OSError as error:
            if error.errno not in _MACHINE:
                raise
            shown = DiffkdError(f'{error.filename}: {error.strerror}' if error.filename else error.strerror)
        typer.echo(f'{ctx.command_path} {ctx.invoked_subcommand}: {shown}', err=True)
        raise typer.Exit(1)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the verbs with the whole first sentence of their help."""
        verbs = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, verb.get_short_help_str(limit=1000)) for name, verb in verbs if verb is not None]
        with formatter.section('Commands'):
            formatter.write_dl(rows)


def group(description: str, **options: Any) -> typer.Typer:
    """An empty group of verbs."""
    return typer.Typer(help=description, cls=Verbs, no_args_is_help=True, rich_markup_mode=None, **options)


def say(message: str) -> None:
    """Print a line that is not wrapped or coloured."""
    Console().print(message, highlight=False, soft_wrap=True, markup=False)


def share_cores() -> None:
    """Let torch's threads sleep when they wait, not spin: the processes that make samples need the cores.

    To be called before torch is imported.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def all_cores(wanted: int) -> int:
    """The wanted number of processes or threads; for 0, one per core that this process may use."""
    return wanted or usable_cores()


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def interruptible(state: str) -> Iterator[None]:
    """End with exit code 130 on SIGINT, and in the same way on SIGTERM and SIGHUP.

    Child processes are terminated while the interruption passes through their owners.

    Args:
        state: printed after the word `interrupted`.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` starts a command with SIGHUP ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f'interrupted; {state}')
        raise typer.Exit(130) from None


@contextmanager
def counting_frames() -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal; yields a function of the numbers of frames done and of all, if known."""
    console = Console()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task('frames', total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
