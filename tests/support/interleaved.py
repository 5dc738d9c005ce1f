"""A launch whose programs run at the same time, in Triton's interpreter, which runs them one after the other.

Every program gets a thread, and one thread at a time runs. Before an access to memory chance decides who goes on: so
programs start in any order, one may be done before another has begun, and what one of them reads may change while it
works, as on a GPU. What an access itself does is done at once.
"""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from guarded_memory import guard

Index = tuple[int, int, int]


class Crowd:
    """The programs of a launch.

    Parameters
    ----------
    builder : object
        Triton's interpreter, which knows which program runs.
    chance : random.Random
        Who goes on.
    patience : int
        Accesses, on average, after which another program goes on.
    """

    def __init__(self, builder: Any, chance: random.Random, patience: int) -> None:
        self._builder = builder
        self._chance = chance
        self._patience = patience
        self._turns: dict[Index, threading.Semaphore] = {}
        self._running: Index | None = None
        self._error: BaseException | None = None
        self._done = threading.Semaphore(0)

    def run(self, program: Callable[[], None], indices: list[Index]) -> None:
        """Run the program for all indices."""
        self._turns = {index: threading.Semaphore(0) for index in indices}
        threads = [threading.Thread(target=self._live, args=(program, index)) for index in indices]
        for thread in threads:
            thread.start()
        self._pass_on()
        self._done.acquire()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def before_access(self) -> None:
        """Let another program go on, perhaps."""
        me = self._running
        if me is None or self._error is not None or self._chance.randrange(self._patience):
            return
        self._pass_on()
        self._wait(me)

    def _live(self, program: Callable[[], None], index: Index) -> None:
        self._wait(index)
        try:
            if self._error is None:
                program()
        except BaseException as error:
            self._error = self._error or error
        del self._turns[index]
        self._pass_on()

    def _wait(self, index: Index) -> None:
        self._turns[index].acquire()
        self._running = index
        self._builder.set_grid_idx(*index)

    def _pass_on(self) -> None:
        if self._turns:
            self._turns[self._chance.choice(list(self._turns))].release()
        else:
            self._running = None
            self._done.release()


class Collected:
    """Stands in for a kernel's function: takes down who is to run, and lets all of them run at the last call."""

    def __init__(self, function: Any, builder: Any, run: Callable[[Callable[[], None], list[Index]], None]) -> None:
        self.__name__, self.__globals__ = function.__name__, function.__globals__
        self.__signature__, self.__annotations__ = inspect.signature(function), function.__annotations__
        self._function, self._builder, self._run = function, builder, run
        self._indices: list[Index] = []

    def __call__(self, **arguments: Any) -> None:
        self._indices.append(self._builder.grid_idx)
        first, second, third = self._builder.grid_dim
        if len(self._indices) == first * second * third:
            self._run(lambda: self._function(**arguments), self._indices)


@contextmanager
def interleaved(seed: int, patience: int = 3) -> Iterator[None]:
    """Run the programs of every launch at the same time.

    Parameters
    ----------
    seed : int
        Another one, another order.
    patience : int
        Accesses, on average, after which another program goes on.
    """
    from triton.runtime import interpreter

    accesses, builder, chance = guard(), interpreter.interpreter_builder, random.Random(seed)
    crowds: list[Crowd] = []
    executor = interpreter.GridExecutor
    run = executor.__call__

    def together(program: Callable[[], None], indices: list[Index]) -> None:
        crowds.append(Crowd(builder, chance, patience))
        try:
            crowds[-1].run(program, indices)
        finally:
            crowds.pop()

    def launch(self: Any, *arguments: Any, **options: Any) -> Any:
        alone, self.fn = self.fn, Collected(self.fn, builder, together)
        try:
            return run(self, *arguments, **options)
        finally:
            self.fn = alone

    executor.__call__ = launch
    accesses.before = lambda: crowds[-1].before_access() if crowds else None
    try:
        yield
    finally:
        executor.__call__, accesses.before = run, None
