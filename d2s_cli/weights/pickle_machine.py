"""A stack machine for pickles that builds inert values and calls nothing.

A pickle is a program. Python's own machine calls whatever functions the program names; this one
knows every instruction too, but a name stays a `Name`, an object of an unknown class becomes a
`Stub` that only remembers what it was given, and the few functions that checkpoints need (a table
of the caller's) are the only ones that ever run. There is one decoder, so nothing can be checked
in one reading and be different in the next; no attribute is ever set, no key is ever hashed, and
everything a program may ask for is paid from a `Budget`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

#: Files with more instructions than this are refused. A tensor of a live module takes about 160, so
#: that MAT's file, of three networks, takes about 250,000; others take less.
MAX_INSTRUCTIONS = 600_000

#: No checkpoint needs these. Nothing of them would run as it is; naming them tells the user whom
#: not to trust.
HOSTILE = frozenset(
    "os posix nt sys subprocess socket shutil importlib runpy pty ctypes webbrowser code codeop"
    " commands asyncio multiprocessing threading signal io _io tempfile pickle _pickle marshal"
    " inspect pdb timeit urllib http requests".split()
)
HARMLESS_BUILTINS = frozenset(
    "set frozenset list dict tuple int float complex str bytes bytearray bool slice range object"
    " type getattr".split()
)
#: Python 2's names of two modules, which low protocols still write
OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class MalformedPickleError(ValueError):
    """The file is not what it says it is; the caller names the file."""


class HostilePickleError(MalformedPickleError):
    """The file names a function that no checkpoint needs. It was not called."""


@dataclass
class Budget:
    """What one file may still ask for, pickles inside it included.

    Attributes:
        instructions: of the machine.
        bytes: that functions of the table may make out of the file's.
    """

    bytes: int
    instructions: int = MAX_INSTRUCTIONS

    def spend(self, count: int) -> None:
        """Pay for `count` bytes; raise MalformedPickleError when there are no more."""
        self.bytes -= count
        if self.bytes < 0:
            raise MalformedPickleError(
                "it uses the same data over and over, or claims more than it holds"
            )


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A function or class that the file names; it is not looked up."""

    origin: str


@dataclass(eq=False, slots=True)
class Table:
    """Stands in for a dictionary: pairs in the file's order. Keys of a file are never hashed, since
    it could choose them to collide, or nest them too deep to hash."""

    entries: list[tuple[object, object]] = field(default_factory=list)

    def get(self, key: str) -> object:
        """The last value of a text key, or None."""
        for name, value in reversed(self.entries):
            if isinstance(name, str) and name == key:
                return value
        return None


@dataclass(eq=False, slots=True)
class Stub:
    """Stands in for an object of any class that the file names.

    Attributes:
        origin: the class.
        state: what the object was to be restored from.
        items: what was put into it, as pairs.
    """

    origin: str
    state: object = None
    items: Table = field(default_factory=Table)


class _Mark:
    """Where on the stack a run of items begins."""


MARK = _Mark()
#: functions that a pickle may call, by their name in the file: (arguments) -> value
Functions = Mapping[str, Callable[..., object]]


def run_pickle(
    stream: IO[bytes],
    functions: Functions,
    reference: Callable[[object], object],
    budget: Budget,
) -> object:
    """Run the pickle at the stream's position and return what it builds.

    Args:
        stream: left behind the pickle's end.
        functions: the only ones that are called.
        reference: what stands for persistent references (storages).
        budget: shared by every pickle of a file.

    Raises:
        HostilePickleError: it names a function that no checkpoint needs.
        MalformedPickleError: it makes no sense, or asks for too much.
    """
    machine = _Machine(functions, reference)
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            budget.instructions -= 1
            if budget.instructions < 0:
                raise MalformedPickleError(f"more than {MAX_INSTRUCTIONS} instructions")
            if instruction.name == "STOP":
                break
            machine.step(instruction.name, argument)
        return machine.pop()
    except MalformedPickleError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        # the decoder's and the machine's ways of meeting instructions that make no sense
        reason = str(error) if isinstance(error, ValueError) else "instructions that make no sense"
        raise MalformedPickleError(reason) from error


class _Machine:
    """Stack, memory, and one method for each kind of instruction."""

    def __init__(self, functions: Functions, reference: Callable[[object], object]) -> None:
        self.functions = functions
        self.reference = reference
        self.stack: list[Any] = []
        self.memory: dict[int, object] = {}

    def step(self, instruction: str, argument: Any) -> None:
        if instruction in LITERALS:
            self.stack.append(argument)
        elif instruction in CONSTANTS:
            self.stack.append(CONSTANTS[instruction]())
        elif instruction in REMEMBER:
            place = len(self.memory) if instruction == "MEMOIZE" else argument
            self.memory[place] = self.stack[-1]
        elif instruction in RECALL:
            self.stack.append(self.memory[argument])
        elif (method := METHODS.get(instruction)) is not None:
            method(self, argument)
        elif instruction not in IGNORED:
            raise MalformedPickleError(f"the instruction {instruction}, which no checkpoint needs")

    def pop(self) -> Any:
        item = self.stack.pop()
        if item is MARK:
            raise MalformedPickleError("a run of items where one is wanted")
        return item

    def pop_run(self) -> list[Any]:
        """The items above the last mark, which goes too."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise MalformedPickleError("a run of items that never began")

    def name(self, module: str, name: str) -> Name:
        module = OLD_MODULES.get(module, module)
        root = module.partition(".")[0]
        if root in HOSTILE or (root == "builtins" and name not in HARMLESS_BUILTINS):
            raise HostilePickleError(f"{module}.{name}")
        return Name(f"{module}.{name}")

    def call(self, function: object, arguments: object) -> object:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise MalformedPickleError("a call of what is no function")
        known = self.functions.get(function.origin)
        return Stub(function.origin) if known is None else known(*arguments)

    # Each of these does what the instruction of that name does, on inert values.

    def do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self.name(module, name))

    def do_stack_global(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedPickleError("a name that is no text")
        self.stack.append(self.name(module, name))

    def do_reduce(self, _: object) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(self.call(function, arguments))

    def do_newobj_ex(self, _: object) -> None:
        self.pop()  # named arguments
        self.do_reduce(None)

    def do_obj(self, _: object) -> None:
        function, *arguments = self.pop_run()
        self.stack.append(self.call(function, tuple(arguments)))

    def do_inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        arguments = tuple(self.pop_run())
        self.stack.append(self.call(self.name(module, name), arguments))

    def do_build(self, _: object) -> None:
        state, made = self.pop(), self.stack[-1]
        if isinstance(made, Stub):
            made.state = state
        elif not isinstance(made, Table):  # an OrderedDict's own attributes are of no interest
            raise MalformedPickleError("the state of an object that has none")

    def do_persistent(self, argument: object) -> None:
        self.stack.append(self.reference(self.pop() if argument is None else argument))

    def do_tuple(self, count: int) -> None:
        self.stack.append(tuple(self.pop() for _ in range(count))[::-1])

    def put_items(self, pairs: list[tuple[object, object]]) -> None:
        target = self.stack[-1]
        table = target.items if isinstance(target, Stub) else target
        if not isinstance(table, Table):
            raise MalformedPickleError("entries for what is no dictionary")
        table.entries += pairs

    def add(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Stub):
            start = len(target.items.entries)
            target.items.entries += [(start + i, item) for i, item in enumerate(items)]
        elif isinstance(target, list):
            target += items
        else:
            raise MalformedPickleError("items for what is no list")

    def do_setitem(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        self.put_items([(key, value)])

    def do_append(self, _: object) -> None:
        item = self.pop()
        self.add([item])

    def do_pop(self, _: object) -> None:
        del self.stack[-1]

    def do_pop_mark(self, _: object) -> None:
        self.pop_run()

    def do_dup(self, _: object) -> None:
        self.stack.append(self.stack[-1])


def _pairs(items: list[object]) -> list[tuple[object, object]]:
    if len(items) % 2:
        raise MalformedPickleError("a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


#: instructions whose argument is the value
LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING"
    " BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE"
    " BINUNICODE8".split()
)
CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": Table,
    "MARK": lambda: MARK,
}
REMEMBER = frozenset(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"])
RECALL = frozenset(["GET", "BINGET", "LONG_BINGET"])
IGNORED = frozenset(["PROTO", "FRAME"])
METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _Machine.do_global,
    "STACK_GLOBAL": _Machine.do_stack_global,
    "REDUCE": _Machine.do_reduce,
    "NEWOBJ": _Machine.do_reduce,
    "NEWOBJ_EX": _Machine.do_newobj_ex,
    "OBJ": _Machine.do_obj,
    "INST": _Machine.do_inst,
    "BUILD": _Machine.do_build,
    "PERSID": _Machine.do_persistent,
    "BINPERSID": _Machine.do_persistent,
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_run())),
    "TUPLE1": lambda m, _: m.do_tuple(1),
    "TUPLE2": lambda m, _: m.do_tuple(2),
    "TUPLE3": lambda m, _: m.do_tuple(3),
    "LIST": lambda m, _: m.stack.append(m.pop_run()),
    "FROZENSET": lambda m, _: m.stack.append(m.pop_run()),
    "DICT": lambda m, _: m.stack.append(Table(_pairs(m.pop_run()))),
    "SETITEM": _Machine.do_setitem,
    "SETITEMS": lambda m, _: m.put_items(_pairs(m.pop_run())),
    "APPEND": _Machine.do_append,
    "APPENDS": lambda m, _: m.add(m.pop_run()),
    "ADDITEMS": lambda m, _: m.add(m.pop_run()),
    "POP": _Machine.do_pop,
    "POP_MARK": _Machine.do_pop_mark,
    "DUP": _Machine.do_dup,
}
