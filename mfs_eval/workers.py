"""Processes that share the runs of a grid, with a progress bar over them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mfs_eval.errors import EvaluationError

T = TypeVar("T")


class Workers:
    """Processes that share the work, and a progress bar over it. Made by :func:`workers`."""

    def __init__(self, pool: ProcessPoolExecutor, progress: Progress) -> None:
        self._pool = pool
        self._progress = progress

    def all(
        self,
        title: str,
        function: Callable[..., T],
        arguments: Sequence[tuple[object, ...]],
        on_done: Callable[[T], None] | None = None,
    ) -> list[T]:
        """``function`` of each of ``arguments``, in their order, whatever order they end in.

        ``on_done`` is called here with each result as soon as it is there, in the order in which they end.

        Raises:
            EvaluationError: a process died.
        """
        task = self._progress.add_task(title, total=len(arguments))
        futures = [self._pool.submit(function, *given) for given in arguments]
        try:
            for future in as_completed(futures):
                result = future.result()
                if on_done is not None:
                    on_done(result)
                self._progress.advance(task)
        except BrokenProcessPool:
            raise EvaluationError(
                "a process with a run ended by itself, perhaps for want of memory; try fewer --jobs"
            ) from None
        except BaseException:
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


@contextmanager
def workers(jobs: int | None, console: Console) -> Iterator[Workers]:
    """``jobs`` processes, one per core if None; they end with the context."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # A forked process would inherit gRPC's threads half alive.
    context = multiprocessing.get_context("spawn")
    count = jobs or os.cpu_count() or 1
    with Progress(*columns, console=console) as progress, ProcessPoolExecutor(count, mp_context=context) as pool:
        yield Workers(pool, progress)
