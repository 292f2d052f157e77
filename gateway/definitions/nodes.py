"""YAML text -> a tree of plain nodes that know their lines.

Takes the part of YAML 1.2 that a resource file needs, and says so where a file uses more: one document, mappings with
text keys, sequences and scalars; no anchors, aliases, merge keys or tags. Plain scalars are read by the core schema
(YAML 1.2.2, 10.3.2), so `on`, `no`, `yes`, `1_000`, `1:30` and `2024-01-01` are text. Keys are always text, as written.

The parser's events are composed here rather than by PyYAML, whose composer follows aliases without bound, keeps the last
of two equal keys, and reads scalars by YAML 1.1.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator

import msgspec
import yaml

from gateway.definitions.model import Fault, Path

MAX_DEPTH = 40
"""Mappings and sequences inside each other; a row rule needs about ten."""
MAX_NODES = 50_000
"""Values of one file; a table of 300 columns with every key written has about 3,000."""

ScalarValue = str | int | float | bool | None


class Scalar(msgspec.Struct, frozen=True):
    """One value as the core schema reads it. `plain` means that it was written without quotes."""

    line: int
    value: ScalarValue
    text: str
    plain: bool


class Items(msgspec.Struct, frozen=True):
    """A sequence."""

    line: int
    items: tuple[Node, ...]


class Entry(msgspec.Struct, frozen=True):
    """A key of a mapping with its value; `line` is the key's."""

    key: str
    line: int
    value: Node


class Mapping(msgspec.Struct, frozen=True):
    """A mapping in its author's order; of two equal keys the first."""

    line: int
    entries: tuple[Entry, ...]


class Refused(msgspec.Struct, frozen=True):
    """A value that has a fault already, and is good for nothing else."""

    line: int


Node = Scalar | Items | Mapping | Refused


def read_nodes(file: str, text: str) -> tuple[Node, tuple[Fault, ...]]:
    """The tree of `text`, and the faults found on the way: duplicate keys, tags, values that are no values.

    A value that cannot be read is a `Refused` in the tree, so that no second fault is made of it; where the text is no YAML
    at all the whole tree is one. Raises nothing.
    """
    reader = _Reader(file, text)
    try:
        return reader.document(), tuple(reader.faults)
    except _Unreadable as stop:
        return Refused(stop.line), (*reader.faults, Fault(file, stop.line, stop.message))


def quoted(text: str) -> str:
    """`text` in double quotes on one line, shortened, for a message."""
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=not text.isprintable())


def lines_of(node: Node) -> dict[Path, int]:
    """The line of every path of a tree: of a mapping's value the line of its key."""
    lines: dict[Path, int] = {}
    _record(node, (), node.line, lines)
    return lines


def plain_value(node: Node) -> object:
    """The tree as Python's dicts, lists and scalars."""
    match node:
        case Scalar():
            return node.value
        case Refused():
            return None
        case Items():
            return [plain_value(item) for item in node.items]
        case Mapping():
            return {entry.key: plain_value(entry.value) for entry in node.entries}


def _record(node: Node, path: Path, line: int, lines: dict[Path, int]) -> None:
    lines[path] = line
    match node:
        case Scalar() | Refused():
            pass
        case Items():
            for index, item in enumerate(node.items):
                _record(item, (*path, index), item.line, lines)
        case Mapping():
            for entry in node.entries:
                _record(entry.value, (*path, entry.key), entry.line, lines)


# The core schema, YAML 1.2.2, 10.3.2; text is what no row fits.
_CORE: tuple[tuple[re.Pattern[str], Callable[[str], ScalarValue]], ...] = (
    (re.compile(r"(null|Null|NULL|~|)"), lambda _: None),
    (re.compile(r"(true|True|TRUE)"), lambda _: True),
    (re.compile(r"(false|False|FALSE)"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda _: math.inf),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda _: math.nan),
)

# YAML 1.2.2, 5.1: what a file may hold as it is. Checked first, since the two parsers of PyYAML tell of it differently.
_NOT_PRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_STORABLE = re.compile(r"[\x00\ud800-\udfff]")
_LINE_END = re.compile(r"\r\n|\r|\n")
_MAX_DIGITS = 1000

# libyaml's words for the commonest slips, in ours.
_LEFT_OPEN = {
    "while scanning a quoted scalar": "a quote that opens here is never closed",
    "while parsing a flow mapping": "a { that opens here is never closed",
    "while parsing a flow sequence": "a [ that opens here is never closed",
}
_PROBLEMS = {
    "mapping values are not allowed in this context": "a colon where none may stand; check the indentation, or quote the text",
    "found character that cannot start any token": "text that begins with such a character needs quotes",
    "did not find expected key": "no key where one belongs; check the indentation",
    "did not find expected ',' or ']'": "a list in [ ] lacks a comma or its ]",
    "did not find expected ',' or '}'": "a mapping in { } lacks a comma or its }",
}

_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it: 100 files in 0.1 s instead of 1 s."""


class _Unreadable(Exception):
    """What stops the reading of a file, with its line."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        self.message = message
        super().__init__(message)


class _Reader:
    """One reading of one text: composes nodes out of the parser's events and gathers `faults`."""

    def __init__(self, file: str, text: str) -> None:
        self.faults: list[Fault] = []
        self._file = file
        self._text = text
        self._starts = [0, *(end.end() for end in _LINE_END.finditer(text))]
        self._last_line = len(self._starts) - (len(text) > 0 and self._starts[-1] == len(text))
        self._nodes = 0

    def document(self) -> Node:
        self._refuse_control_characters()
        events = self._events()
        first = next((event for event in events if isinstance(event, yaml.NodeEvent)), None)
        node = Scalar(1, None, "", plain=True) if first is None else self._node(first, events, 0)
        second = next((event for event in events if isinstance(event, yaml.DocumentStartEvent)), None)
        if second is not None:
            self._fault(self._line(second), "a second document starts here; a resource file holds one")
        return node

    def _refuse_control_characters(self) -> None:
        found = _NOT_PRINTABLE.search(self._text)
        if found:
            line = self._line_at(found.start())
            raise _Unreadable(line, f"a character that YAML does not take, U+{ord(found.group()):04X}")

    def _events(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self._text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            raise self._no_yaml(error) from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise _Unreadable(1, "not YAML") from error

    def _no_yaml(self, error: yaml.MarkedYAMLError) -> _Unreadable:
        mark, opened = error.problem_mark, error.context_mark
        index = mark.index if mark else 0
        if opened is not None and not self._text[index:].strip():
            left_open = _LEFT_OPEN.get(error.context or "", "something that begins here never ends")
            return _Unreadable(self._line_at(opened.index), f"not YAML: {left_open}")
        if self._text[index : index + 1] == "\t":
            return _Unreadable(self._line_at(index), "not YAML: a tab where only spaces may stand")
        problem = error.problem or "unreadable"
        return _Unreadable(self._line_at(index), f"not YAML: {_PROBLEMS.get(problem, problem)}")

    def _node(self, event: yaml.NodeEvent, events: Iterator[yaml.Event], depth: int) -> Node:
        self._refuse_excess(event, depth)
        node = self._composed(event, events, depth)
        tag = event.tag if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) else None
        if event.anchor is not None and not isinstance(event, yaml.AliasEvent):
            self._fault(node.line, f"anchors are not taken: &{event.anchor}")
        if tag is not None:
            self._fault(node.line, f"tags are not taken: {quoted(tag)}")
        return node if tag is None else Refused(node.line)

    def _composed(self, event: yaml.NodeEvent, events: Iterator[yaml.Event], depth: int) -> Node:
        line = self._line(event)
        match event:
            case yaml.ScalarEvent():
                return self._scalar(event)
            case yaml.SequenceStartEvent():
                items = _until(yaml.SequenceEndEvent, events)
                return Items(line, tuple(self._node(item, events, depth + 1) for item in items))
            case yaml.MappingStartEvent():
                return self._mapping(line, events, depth)
            case _:
                self._fault(line, f"aliases are not taken; write the value of *{event.anchor} out")
                return Refused(line)

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar | Refused:
        text, line, plain = event.value, self._line(event), not event.style
        value, refusal = _core_value(text) if plain else (text, "")
        if _NOT_STORABLE.search(text):
            refusal = "a character that PostgreSQL cannot store: U+0000 or half of a surrogate pair"
        if refusal:
            self._fault(line, refusal)
            return Refused(line)
        return Scalar(line, value, text, plain)

    def _mapping(self, line: int, events: Iterator[yaml.Event], depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        for event in _until(yaml.MappingEndEvent, events):
            key = self._node(event, events, depth + 1)
            value = self._node(_next_node(events), events, depth + 1)
            if isinstance(key, Refused):
                continue
            if not isinstance(key, Scalar):
                self._fault(key.line, "a mapping or a list stands as a key; a key is text")
            elif key.plain and key.text == "<<":
                self._fault(key.line, "merge keys are not taken: <<")
            elif key.text in entries:
                self._fault(key.line, f"duplicate key {quoted(key.text)}, first written on line {entries[key.text].line}")
            else:
                entries[key.text] = Entry(key.text, key.line, value)
        return Mapping(line, tuple(entries.values()))

    def _refuse_excess(self, event: yaml.NodeEvent, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Unreadable(self._line(event), f"more than {MAX_NODES} values in one file")
        if depth > MAX_DEPTH:
            raise _Unreadable(self._line(event), f"values nested more than {MAX_DEPTH} deep")

    def _fault(self, line: int, message: str) -> None:
        self.faults.append(Fault(self._file, line, message))

    def _line(self, event: yaml.Event) -> int:
        return self._line_at(event.start_mark.index if event.start_mark else 0)

    def _line_at(self, index: int) -> int:
        """The line as editors count them: YAML 1.1's parsers also end one at U+0085, U+2028 and U+2029."""
        return max(1, min(bisect_right(self._starts, index), self._last_line))


def _core_value(text: str) -> tuple[ScalarValue, str]:
    """A plain scalar's value by the core schema, and why it cannot be taken, or ""."""
    read = next((read for pattern, read in _CORE if pattern.fullmatch(text)), str)
    if read is not str and len(text) > _MAX_DIGITS:
        return None, f"a number of more than {_MAX_DIGITS} digits"
    value = read(text)
    if isinstance(value, float) and not math.isfinite(value):
        return None, f"{quoted(text)} is not a finite number"
    return value, ""


def _next_node(events: Iterator[yaml.Event]) -> yaml.NodeEvent:
    event = next(events)
    if not isinstance(event, yaml.NodeEvent):
        raise TypeError(f"the YAML parser gave {event!r} where a value belongs")
    return event


def _until(end: type[yaml.CollectionEndEvent], events: Iterator[yaml.Event]) -> Iterator[yaml.NodeEvent]:
    for event in events:
        if isinstance(event, end):
            return
        if isinstance(event, yaml.NodeEvent):
            yield event
