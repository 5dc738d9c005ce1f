"""Finds what a compiled kernel writes and reads without a barrier in between: no interpreter can, whose programs are of
one thread.

Triton's GPU dialect (the "ttgir" of a compiled kernel, as text) still has loops and conditions in braces, and a pointer
can be followed to the argument that it comes from. Two accesses of one program to one argument are a hazard if another
thread may make them in the other order: one of them is a write, and on some way from the first to the second there is
no barrier. Barriers that the compiler adds for sums and the like do not count: they come and go with its version.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """A sum of what the program computes, and of a constant."""

    terms: tuple[str, ...] = ()
    constant: int = 0

    def plus(self, other: Place) -> Place:
        """The sum of two."""
        return Place(tuple(sorted(self.terms + other.terms)), self.constant + other.constant)


@dataclass(frozen=True)
class Access:
    """A load, a store or an atomic."""

    kind: str
    """"load", "store" or "atomic"."""
    argument: str
    """Of the kernel, where the pointer comes from."""
    place: Place
    """In the argument's memory."""
    single: bool
    """Whether all threads mean one element."""
    text: str
    functions: tuple[str, ...]
    """Of the source, the innermost first."""

    @property
    def writes(self) -> bool:
        """Whether it changes memory."""
        return self.kind != "load"

    def __str__(self) -> str:
        return f"{self.kind} of {self.argument} in {' < '.join(self.functions)}"


@dataclass(frozen=True, eq=False)
class Barrier:
    """All threads of a program wait for each other."""

    functions: tuple[str, ...]


@dataclass
class Region:
    """What is in braces: of an "if" one part or two, of a "for" one, of a "while" its condition and its body."""

    kind: str
    parts: list[list[Access | Barrier | Region]] = field(default_factory=lambda: [[]])


Statement = Access | Barrier | Region

BARRIER = re.compile(r"(ttg|gpu)\.barrier\b")
ACCESS = re.compile(r"tt\.(load|store|atomic)(_rmw|_cas)?\b")
# What a pointer may go through, as the first operand, without being moved.
SAME_PLACE = re.compile(r"(tt\.(splat|broadcast|expand_dims|bitcast|reshape)|ttg\.convert_layout)\b")
OPERANDS = re.compile(r"%[\w#]+")


class Kernel:
    """A kernel's accesses and barriers.

    Parameters
    ----------
    ttgir : str
        As Triton prints it.
    arguments : list of str
        What the source calls its arguments, those of compile time left out.
    """

    def __init__(self, ttgir: str, arguments: list[str]) -> None:
        self._locations = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", ttgir, flags=re.MULTILINE))
        _, signature, body = re.split(r"^ *tt\.func public @\w+\((.*)$", ttgir, maxsplit=1, flags=re.MULTILINE)
        names = re.findall(r"(%\w+): ", signature)
        assert len(names) == len(arguments), (names, arguments)
        self._pointers = {name: (argument, Place(), True) for name, argument in zip(names, arguments, strict=True)}
        self._numbers: dict[str, Place] = {}
        self.body = Region("func")
        self._open = [self.body]
        for line in body.splitlines():
            if self._open:
                self._read(line)

    def _read(self, line: str) -> None:
        text, _, location = line.strip().partition(" loc(")
        text = text.strip()
        if text.startswith("}"):
            if text.endswith("{"):  # "else" or "do"
                self._open[-1].parts.append([])
            else:
                self._open.pop()
        elif text.endswith("{"):
            known = re.search(r'scf\.(if|for|while)\b|"tt\.(?:reduce|scan)"', text)
            assert known, f"a region of an unknown kind: {text}"
            region = Region(known[1] or "sum")
            self._add(region)
            self._open.append(region)
        elif BARRIER.match(text):
            self._add(Barrier(self._functions(location)))
        else:
            self._operation(text, location)

    def _add(self, statement: Statement) -> None:
        self._open[-1].parts[-1].append(statement)

    def _operation(self, text: str, location: str) -> None:
        result, equals, operation = text.partition(" = ")
        if not equals or not result.startswith("%"):
            result, operation = "", text
        operands = OPERANDS.findall(operation)
        access = ACCESS.match(operation)
        if access:
            self._add(Access(access[1], *self._pointed(operation), operation, self._functions(location)))
        elif operation.startswith("tt.addptr"):
            argument, place, single = self._pointed(operation)
            by_tensor = "tensor<" in operation
            self._pointers[result] = argument, place.plus(self._number(operands[1])), single and not by_tensor
        elif "!tt.ptr" in operation and operands:
            assert SAME_PLACE.match(operation), f"an unknown use of a pointer: {text}"
            self._pointers[result] = self._pointed(operation)
        elif constant := re.match(r"arith\.constant (-?\d+) : ", operation):
            self._numbers[result] = Place((), int(constant[1]))
        elif operation.startswith("arith.addi"):
            self._numbers[result] = self._number(operands[0]).plus(self._number(operands[1]))
        elif operation.startswith("arith.extsi"):
            self._numbers[result] = self._number(operands[0])

    def _number(self, name: str) -> Place:
        return self._numbers.get(name, Place((name,)))

    def _pointed(self, operation: str) -> tuple[str, Place, bool]:
        name = OPERANDS.findall(operation)[0]
        assert name in self._pointers, f"a pointer of unknown origin: {operation}"
        return self._pointers[name]

    def _functions(self, location: str) -> tuple[str, ...]:
        return tuple(function_at(*place) for place in self._source(location.removesuffix(")")))

    def _source(self, location: str) -> Iterator[tuple[str, int]]:
        """File and line that an operation comes from, then those of the call, and so on."""
        location = self._locations.get(location, location)
        at = re.match(r'"([^"]+)":(\d+):\d+', location)
        inner = re.findall(r"#loc\d*", location)
        if at:
            yield at[1], int(at[2])
        for one in inner:  # callsite(what at where), or "a name"(where)
            yield from self._source(one)

    def accesses(self) -> list[Access]:
        """All of them, in the order of the text."""
        return [statement for statement in statements(self.body) if isinstance(statement, Access)]

    def barriers(self) -> list[Barrier]:
        """All of them, in the order of the text."""
        return [statement for statement in statements(self.body) if isinstance(statement, Barrier)]

    def may_meet(self, one: Access, other: Access) -> bool:
        """Whether two accesses may be to one element; not if each has one and their places differ by a constant."""
        apart = one.place.terms == other.place.terms and one.place.constant != other.place.constant
        return not (one.single and other.single and apart)


def statements(region: Region) -> Iterator[Access | Barrier]:
    """What is in a region and in those within it."""
    for part in region.parts:
        for statement in part:
            if isinstance(statement, Region):
                yield from statements(statement)
            else:
                yield statement


@functools.cache
def _functions_of(file: str) -> list[tuple[int, int, str]]:
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [(node.lineno - 1, node.end_lineno or 0, node.name) for node in found]  # a decorator's line is a kernel's


def function_at(file: str, line: int) -> str:
    """The function of a source file that a line belongs to."""
    return next((name for first, last, name in _functions_of(file) if first <= line <= last), "?")


Pending = dict[Access, None]
"""Accesses since the last barrier, on any way: a set in order."""


class Hazards:
    """Takes all ways through a kernel.

    Attributes
    ----------
    found : list of (Access, Access)
        What comes first in the program, and what another thread may do before.
    unreleased : list of Access
        Writes that another thread may make after an atomic that tells other programs of them.

    Parameters
    ----------
    kernel : Kernel
    same : dict
        Arguments that may be the same memory as another, with the name of that.
    turns_apart : bool
        Whether the turns of the outermost loops have nothing to do with each other.
    without : Barrier, optional
        One to be taken for none.
    """

    def __init__(
        self, kernel: Kernel, same: dict[str, str], turns_apart: bool = False, without: Barrier | None = None
    ) -> None:
        self._kernel, self._same, self._without = kernel, same, without
        self._found: dict[tuple[Access, Access], None] = {}
        self._unreleased: Pending = {}
        self._go(kernel.body.parts[0], {}, turns_apart)
        self.found, self.unreleased = list(self._found), list(self._unreleased)

    def _go(self, part: list[Statement], pending: Pending, once: bool = False) -> Pending:
        """Take the statements of a part in order, and return what is pending then."""
        for statement in part:
            if isinstance(statement, Barrier):
                pending = pending if statement is self._without else {}
            elif isinstance(statement, Access):
                self._look(statement, pending)
                pending = {**pending, statement: None}
            elif statement.kind == "if":
                ways = [self._go(way, pending) for way in statement.parts]
                pending = functools.reduce(Pending.__or__, ways if len(ways) > 1 else [pending, *ways])
            elif statement.kind == "for":
                pending = pending | self._turns(statement.parts, pending, once)
            elif statement.kind == "while":
                pending = self._turns(statement.parts, pending, once)
        return pending

    def _turns(self, parts: list[list[Statement]], pending: Pending, once: bool) -> Pending:
        """All turns of a loop: what is pending after its last part, or after the first, where it is a condition."""
        condition = parts[0] if len(parts) > 1 else []
        before, ends = pending, {}
        for _ in range(1 if once else 3):
            ends = ends | self._go(condition, before)
            before = before | self._go(parts[-1], self._go(condition, before))
        return ends | self._go(condition, before) if condition else before

    def _look(self, access: Access, pending: Pending) -> None:
        if "acq_rel" in access.text:
            self._unreleased |= {earlier: None for earlier in pending if earlier.writes}
        for earlier in pending:
            same = earlier.writes != access.writes and self._memory(earlier) == self._memory(access)
            if same and self._kernel.may_meet(earlier, access):
                self._found[earlier, access] = None

    def _memory(self, access: Access) -> str:
        return self._same.get(access.argument, access.argument)
