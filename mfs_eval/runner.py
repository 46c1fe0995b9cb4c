"""Runs of a grid on all cores, with a progress bar on stderr.

Worker processes end with this one however it ends: they do not see Ctrl-C (the parent reports it once), are killed when
the parent is interrupted or gets SIGTERM, and exit by themselves when the parent has died.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mfs_eval.errors import EvaluationError
from mfs_eval.plan import duration_text
from topologies.processes import unwinding_on_sigterm

T = TypeVar("T")
LONG_S = 60.0
"""Work that takes less than this is not commented on in a log."""
PARENT_CHECK_S = 1.0
"""Time between two checks of a worker whether its parent is alive."""


def run_all(
    title: str,
    function: Callable[..., T],
    arguments: Sequence[tuple[object, ...]],
    jobs: int | None = None,
    on_done: Callable[[T], None] | None = None,
) -> list[T]:
    """Call ``function`` with each of ``arguments``, in ``jobs`` processes, and return the results in their order.

    Args:
        title: label of the progress bar.
        function: can be pickled.
        arguments: positional arguments of each call.
        jobs: number of processes; 1 calls in this process, None uses all cores.
        on_done: called in this process with each result as soon as it arrives, in the order of completion.

    Raises:
        EvaluationError: a worker process died.
    """
    results: dict[int, T] = {}
    lines = _Lines(title, len(arguments), time.monotonic())
    with _progress() as progress, unwinding_on_sigterm():
        task = progress.add_task(title, total=len(arguments))
        try:
            with contextlib.closing(_completed(function, arguments, jobs)) as completed:
                for index, result in completed:
                    results[index] = result
                    if on_done is not None:
                        on_done(result)
                    progress.advance(task)
                    if progress.disable and (line := lines.after(len(results), time.monotonic())):
                        print(line, file=sys.stderr, flush=True)
        except BrokenProcessPool:
            raise EvaluationError(
                "a worker process died, perhaps because memory ran out; try again with fewer --jobs"
            ) from None
    return [results[index] for index in range(len(arguments))]


def _completed(
    function: Callable[..., T], arguments: Sequence[tuple[object, ...]], jobs: int | None
) -> Generator[tuple[int, T], None, None]:
    """Yield the number and result of each call, in the order of completion. Closing it kills the workers."""
    calls = [joblib.delayed(_numbered)(index, function, given) for index, given in enumerate(arguments)]
    watching = {"initializer": _exit_with_parent, "initargs": (os.getpid(),)} if jobs != 1 else {}
    with joblib.parallel_config("loky", n_jobs=jobs or -1, max_nbytes=None, **watching):
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
    # Workers are started here, and inherit the signal mask.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        results: Any = parallel(calls)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    with contextlib.closing(results):
        yield from results


def _numbered(index: int, function: Callable[..., T], given: tuple[object, ...]) -> tuple[int, T]:
    return index, function(*given)


def _exit_with_parent(parent: int) -> None:
    """In a worker: exit as soon as ``parent`` is not the parent process any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Lines:
    """Progress where stderr is no terminal: of long work alone, a line after the first call and after each tenth."""

    def __init__(self, title: str, total: int, began_s: float) -> None:
        self._title, self._total, self._began_s = title, total, began_s
        self._next = 1

    def after(self, done: int, now_s: float) -> str:
        """Return the line to print after ``done`` calls; empty for none."""
        left_s = (now_s - self._began_s) / done * (self._total - done)
        if done < self._next or left_s < LONG_S:
            return ""
        self._next = done + max(1, self._total // 10)
        return f"{self._title}: {done:,} of {self._total:,} done, about {duration_text(left_s)} left"


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    # In a file or a pipe a bar would be a single line at the end, of no use: see _Lines.
    return Progress(*columns, console=console, disable=not console.is_terminal)
