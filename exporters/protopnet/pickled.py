"""Read a pickle as data: an interpreter that imports nothing and calls nothing of the pickle's.

Python's unpickler calls whatever a pickle names. This one walks the opcodes itself. A class that
the pickle names becomes a `Global`, an object of it an `Instance` that holds its state; a call is
carried out only by one of the caller's own functions, and any other is refused. Work and memory
are bounded by the size of the input, `MAX_BYTES`, and the number of opcodes, `MAX_OPCODES`.
"""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from xai_onnx.errors import PrototypeError, reason

MAX_BYTES = 2**26  # a checkpoint's pickle holds no weights: hundreds of kilobytes are usual
MAX_OPCODES = 1_000_000
_LONGEST_NAME = 200  # in messages

Calls = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:_LONGEST_NAME]


@dataclass(eq=False)
class Instance:
    """An object of a class that is only named: never made, its state kept."""

    kind: Global
    arguments: tuple[Any, ...]
    state: Any = None


class _Mark:
    """Where on the stack a list of items begins."""


def read(stream: BytesIO, where: str, calls: Calls, persistent: Callable[[Any], Any]) -> Any:
    """The object in a pickle; `stream` stands behind it afterwards.

    Args:
        stream: at the pickle's start.
        where: how error messages call the file.
        calls: what may be called, by full name, and the function of ours that does it.
        persistent: turns a persistent id into the object that it stands for.

    Raises:
        PrototypeError: damaged, too long, or it calls what isn't in `calls`.
    """
    machine = _Machine(where, calls, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPCODES:
                raise PrototypeError(
                    f"{where}: its pickle has more than {MAX_OPCODES:,} operations, which no "
                    "ProtoPNet needs; refused"
                )
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except PrototypeError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise PrototypeError(
            f"{where}: its pickle is damaged or not one of torch's: {reason(error)}"
        ) from error


class _Machine:
    """Stack and memo of a pickle that is being read."""

    def __init__(self, where: str, calls: Calls, persistent: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._where, self._calls, self._persistent = where, calls, persistent

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        stack = self.stack
        if name in _PUSHES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _PUTS:
            self._memo[len(self._memo) if argument is None else int(argument)] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[int(argument)])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(items[::-1]))
        elif name in _FROM_MARK:
            stack.append(_FROM_MARK[name](self._marked()))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._marked()
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self._marked()
            # A subclass of dict that is only named keeps its items as nothing: none is needed.
            if not isinstance(stack[-1], Instance):
                _of(dict, stack[-1]).update(_pairs(items))
        elif name == "ADDITEMS":
            items = self._marked()
            _of(set, stack[-1]).update(map(key, items))
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            stack.append(Global(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(Global(_of(str, module), _of(str, attribute)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = _of(tuple, stack.pop()), _of(Global, stack.pop())
            make = self._call if name == "REDUCE" else self._object
            stack.append(make(called, arguments))
        elif name == "BUILD":
            state, built = stack.pop(), stack[-1]
            if isinstance(built, Instance):
                built.state = state
        elif name == "BINPERSID":
            stack.append(self._persistent(stack.pop()))
        elif name == "POP":
            stack.pop()
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PrototypeError(
                f"{self._where}: its pickle uses the operation {name}, which torch's files don't; "
                "refused"
            )

    def _marked(self) -> list[Any]:
        """What lies above the last mark, which goes too."""
        place = len(self.stack) - 1
        while self.stack[place] is not _Mark:
            place -= 1
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _call(self, called: Global, arguments: tuple[Any, ...]) -> Any:
        if str(called) not in self._calls:
            raise PrototypeError(
                f"{self._where}: its pickle calls {called}, which no ProtoPNet needs; refused, "
                "and nothing of it was executed"
            )
        return self._calls[str(called)](*arguments)

    def _object(self, kind: Global, arguments: tuple[Any, ...]) -> Instance:
        if kind.module.partition(".")[0] in sys.stdlib_module_names | {"__builtin__"}:
            raise PrototypeError(
                f"{self._where}: its pickle makes a {kind}, which no ProtoPNet needs; refused, "
                "and nothing of it was executed"
            )
        return Instance(kind, arguments)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} is due")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(key, items[::2]), items[1::2], strict=True))


def key(item: Any) -> Any:
    """A key of a dict: tuples nested a million deep would overflow the stack when hashed."""
    if not isinstance(item, str | bytes | int | float | None):
        raise TypeError(f"a {type(item).__name__} as key")
    return item


_PUSHES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _Mark,
}
_FROM_MARK: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": _pairs,
    "FROZENSET": lambda items: frozenset(map(key, items)),
}
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("GET", "BINGET", "LONG_BINGET")
