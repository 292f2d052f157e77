"""Resource files -> definitions, with every fault of every file at once, each at its line.

Takes a directory of `*.yaml` and `*.yml`, gives a `Loaded`. What a file may hold is read off the structs of `model` through
`schema`, so a key added there is known here. Whether a definition fits the database is for `catalog.build`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path as FilePath
from typing import Any

import msgspec

from gateway.definitions.model import (
    DeprecatedDefinition,
    Fault,
    FieldDefinition,
    LimitDefinition,
    ListDefinition,
    Loaded,
    Path,
    Place,
    ResourceDefinition,
    RoleDefinition,
    Source,
)
from gateway.definitions.nodes import Entry, Items, Mapping, Node, Refused, Scalar, lines_of, plain_value, quoted, read_nodes
from gateway.definitions.schema import RESOURCE_NAME, VERSION, Constraint, Shape, constraint_of, members_of
from gateway.errors import ConfigurationError, did_you_mean

DEFAULT_VERSION = ResourceDefinition().version
MAX_FILE_BYTES = 1_000_000
SUFFIXES = (".yaml", ".yml")


def load_directory(directory: FilePath) -> Loaded:
    """Reads every resource file directly in `directory`, by name.

    Hidden files, such as `.#orders.yaml`, are an editor's and are passed over. A file with a fault is left out and named in
    `broken`; so are two files of one name and version. Raises ConfigurationError where the directory is missing, cannot be
    read, or holds no resource file.
    """
    places: dict[Place, list[tuple[FilePath, Source | tuple[Fault, ...]]]] = {}
    for path in _files(directory):
        text = _read(path)
        result = text if isinstance(text, tuple) else load_text(path.stem, str(path), text)
        name, version = _named(path.stem)
        place = result.place if isinstance(result, Source) else (version or DEFAULT_VERSION, name)
        places.setdefault(place, []).append((path, result))
    results = {place: _only_one(place, found) for place, found in places.items()}
    sources = tuple(result for result in results.values() if isinstance(result, Source))
    faulty = {place: result for place, result in results.items() if not isinstance(result, Source)}
    return Loaded(sources, tuple(fault for faults in faulty.values() for fault in faults), tuple(faulty))


def load_text(stem: str, file: str, text: str) -> Source | tuple[Fault, ...]:
    """One resource's definition out of its file's text, or all the faults of it, by line. Raises nothing.

    `stem` is the resource's name, or with its version `products.v2`; `file` the path to show in faults.
    """
    name, version = _named(stem)
    node, unread = read_nodes(file, text)
    check = _Check(file, node)
    definition = check.value(node, Shape(struct=ResourceDefinition), Constraint(), ())
    if version and isinstance(definition, ResourceDefinition):
        if ("version",) in check.lines and definition.version != version:
            said = f'version: "{definition.version}" is not the {version} that the file\'s name says; leave one of them out'
            check.faults.append(Fault(file, check.lines["version",], said))
        definition = msgspec.structs.replace(definition, version=version)
    faults = sorted({*_name_faults(name, file), *unread, *check.faults})
    if faults or not isinstance(definition, ResourceDefinition):
        return tuple(faults)
    return Source(name, file, definition, check.lines)


def _named(stem: str) -> tuple[str, str | None]:
    """The resource's name and version as the file's name says them: `products.v2` is ("products", "v2")."""
    name, _, version = stem.rpartition(".")
    return (name, version) if name and re.fullmatch(VERSION, version) else (stem, None)


def _files(directory: FilePath) -> list[FilePath]:
    try:
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        raise ConfigurationError(
            f'RESOURCES_DIR: there is no directory "{directory}"; make it, with a NAME.yaml for each table'
        ) from None
    except OSError as error:
        raise ConfigurationError(f'RESOURCES_DIR: "{directory}" cannot be read: {error.strerror}') from error
    files = [path for path in entries if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not files:
        raise ConfigurationError(
            f'RESOURCES_DIR: "{directory}" holds no resource file; write a NAME.yaml for a table (it may be empty)'
        )
    return files


def _only_one(place: Place, found: list[tuple[FilePath, Source | tuple[Fault, ...]]]) -> Source | tuple[Fault, ...]:
    (first, result), *others = found
    if not others:
        return result
    version, name = place
    called = quoted(name) if version == DEFAULT_VERSION else f"{quoted(name)} of {version}"
    return tuple(Fault(str(other), 1, f"the resource {called} is in {first} too; keep one of the files") for other, _ in others)


def _read(path: FilePath) -> str | tuple[Fault, ...]:
    """A file's text without its byte order mark, or why there is none."""
    if path.exists() and not path.is_file():
        return (Fault(str(path), 1, "not a file"),)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return (Fault(str(path), 1, f"cannot be read: {error.strerror}"),)
    if len(content) > MAX_FILE_BYTES:
        return (Fault(str(path), 1, f"over {MAX_FILE_BYTES} bytes"),)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
        return (Fault(str(path), line, f"not UTF-8: the byte 0x{content[error.start]:02x}"),)


def _name_faults(name: str, file: str) -> Iterator[Fault]:
    if not re.fullmatch(RESOURCE_NAME, name):
        takes = "a letter, then up to 62 letters, digits, _ or -, and perhaps .v2; name the table with `table:`"
        yield Fault(file, 1, f"the file's name is the resource's, and {quoted(name)} cannot be one: {takes}")


class _Faulty:
    """Stands for a value that has a fault, so that what depends on it is not checked."""


_FAULTY = _Faulty()


class _Check:
    """One file's tree held against the shapes: gives values and gathers `faults`; `lines` are those of every path."""

    def __init__(self, file: str, root: Node) -> None:
        self.lines = lines_of(root)
        self.faults: list[Fault] = []
        self._file = file

    def value(self, node: Node, shape: Shape, constraint: Constraint, path: Path) -> Any:
        """What a node holds, as `shape` has it, or `_FAULTY`."""
        match node:
            case Refused():
                return _FAULTY
            case _ if shape.anything:
                return plain_value(node)
            case Scalar(value=None):
                return self._nothing(node, shape, path)
            case Scalar():
                return self._scalar(node, shape, constraint, path)
            case Items() if shape.item:
                return self._list(node.items, shape.item, constraint, path)
            case Mapping() if shape.value:
                return self._map(node.entries, shape.value, constraint, path)
            case Mapping() if shape.struct:
                return self._struct(node.entries, shape.struct, path)
            case _:
                return self._fault(path, f"takes {_taken(shape)}, not {_held(node)}")

    def _nothing(self, node: Scalar, shape: Shape, path: Path) -> Any:
        if shape.takes_empty:
            return self._struct((), shape.struct, path) if shape.struct else {}
        if shape.takes_null:
            return None
        hint = ". Leave the key out for its default" if shape.nullable else _quote_hint(node, shape)
        return self._fault(path, f"takes {_taken(shape)}, not {_held(node)}{hint}")

    def _struct(self, entries: tuple[Entry, ...], struct: type[msgspec.Struct], path: Path) -> Any:
        members = members_of(struct)
        values = {entry.key: self._member(entry, struct, path) for entry in entries}
        missing = [name for name, member in members.items() if member.required and name not in values]
        for name in missing:
            self._fault(path, f"the key {quoted(name)} is missing")
        faulty = {name for name, value in values.items() if value is _FAULTY}
        if missing or not faulty.isdisjoint(name for name, member in members.items() if member.required):
            return _FAULTY
        built = struct(**{name: value for name, value in values.items() if name not in faulty})
        for below, message in _broken_rules(built, faulty):
            self._fault((*path, *below), message)
        return _FAULTY if faulty else built

    def _member(self, entry: Entry, struct: type[msgspec.Struct], path: Path) -> Any:
        members = members_of(struct)
        below = (*path, entry.key)
        if entry.key in members:
            return self.value(entry.value, members[entry.key].shape, constraint_of(struct, entry.key), below)
        known = f"{did_you_mean(entry.key, members)} It takes {', '.join(members)}."
        return self._fault(path, f"unknown key {quoted(entry.key)}.{known}", self.lines[below])

    def _map(self, entries: tuple[Entry, ...], shape: Shape, constraint: Constraint, path: Path) -> Any:
        if constraint.not_empty and not entries:
            return self._fault(path, "needs at least one entry")
        if any(entry.key == "" for entry in entries):
            self._fault(path, "a name is empty", self.lines[(*path, "")])
        values = {entry.key: self.value(entry.value, shape, constraint, (*path, entry.key)) for entry in entries}
        return _FAULTY if any(value is _FAULTY for value in values.values()) else values

    def _list(self, items: tuple[Node, ...], shape: Shape, constraint: Constraint, path: Path) -> Any:
        if constraint.not_empty and not items:
            return self._fault(path, "needs at least one entry")
        values = [self.value(item, shape, constraint, (*path, index)) for index, item in enumerate(items)]
        seen: set[tuple[type, Any]] = set()
        for index, value in enumerate(values):
            if constraint.unique and value is not _FAULTY and (type(value), value) in seen:
                self._fault((*path, index), f"{_shown(value)} stands here twice")
            seen.add((type(value), value))
        return _FAULTY if any(value is _FAULTY for value in values) else values

    def _scalar(self, node: Scalar, shape: Shape, constraint: Constraint, path: Path) -> Any:
        value = node.value
        if shape.choices and value not in shape.choices:
            hint = did_you_mean(node.text, shape.choices)
            return self._fault(path, f"takes {_taken(shape)}, not {_held(node)}{hint and '.'}{hint}")
        if not shape.choices and not _is_one_of(value, shape.scalars):
            return self._fault(path, f"takes {_taken(shape)}, not {_held(node)}{_quote_hint(node, shape)}")
        refusal = _refusal(value, constraint)
        if refusal:
            return self._fault(path, refusal)
        return value if shape.choices or type(value) in shape.scalars else float(str(value))

    def _fault(self, path: Path, message: str, line: int | None = None) -> _Faulty:
        where = f"{_dotted(path)}: " if path else ""
        self.faults.append(Fault(self._file, line or self._line(path), where + message))
        return _FAULTY

    def _line(self, path: Path) -> int:
        """The line of a path, or of what holds it where the path itself was left to its default."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


def _is_one_of(value: object, scalars: tuple[type, ...]) -> bool:
    """Whether a value is of one of the types: a whole number is a number too, a boolean is none."""
    return type(value) in scalars or (type(value) is int and float in scalars)


def _refusal(value: Any, constraint: Constraint) -> str:
    """Why a value does not satisfy a constraint, or ""."""
    if isinstance(value, str):
        return _text_refusal(value, constraint)
    low = constraint.above is not None and value <= constraint.above
    low = low or (constraint.minimum is not None and value < constraint.minimum)
    high = constraint.maximum is not None and value > constraint.maximum
    return f"takes a number {_span(constraint)}, not {_shown(value)}" if low or high else ""


def _text_refusal(value: str, constraint: Constraint) -> str:
    if constraint.pattern is not None and not re.fullmatch(constraint.pattern, value):
        return f"takes {constraint.form}, not {quoted(value)}"
    fault = _expression_fault(value) if constraint.expression else ""
    return f"no regular expression: {fault}" if fault else ""


def _expression_fault(pattern: str) -> str:
    """Why a pattern is no regular expression, or "". What Python only warns of means different things to different engines."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError, Warning) as error:
            return str(error) or type(error).__name__
    return ""


def _span(constraint: Constraint) -> str:
    low = f"over {constraint.above:g}" if constraint.above is not None else f"from {constraint.minimum:g}"
    return f"{low} to {constraint.maximum}"


def _taken(shape: Shape) -> str:
    """A shape in words."""
    words = [_WORDS[scalar] for scalar in shape.scalars if not (scalar is int and float in shape.scalars)]
    words += [f'"{choice}"' for choice in shape.choices]
    words += ["a list"] if shape.item else []
    words += ["a mapping"] if shape.value or shape.struct else []
    return " or ".join(words)


_WORDS: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _held(node: Node) -> str:
    match node:
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=str()):
            return f"the text {quoted(node.text)}"
        case Scalar():
            return _shown(node.value)
        case Items():
            return "a list"
        case Mapping() | Refused():
            return "a mapping"


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else str(value).lower()[:60]


def _quote_hint(node: Scalar, shape: Shape) -> str:
    """What to do about text that YAML reads as something else: 2024, true, null."""
    return ". Put it in quotes" if str in shape.scalars and node.plain and node.text else ""


def _dotted(path: Path) -> str:
    """A path as people write it: `list.sort[0]`, `fields."unit price".minimum`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step if _SIMPLE.fullmatch(step) else quoted(step)}" for step in path)
    return "".join(steps).removeprefix(".")


_SIMPLE = re.compile(r"[\w$-]{1,63}")


def _broken_rules(built: msgspec.Struct, faulty: set[str]) -> Iterator[tuple[Path, str]]:
    """What a struct's keys break together: the path below it and the message. A rule on a key with a fault of its own waits."""
    for members, rule in _RULES.get(type(built), ()):
        if faulty.isdisjoint(members):
            yield from rule(built)


def _limit_within_max(limit: LimitDefinition) -> Iterator[tuple[Path, str]]:
    if limit.default > limit.max:
        yield ("default",), f"{limit.default} rows a page is over the max of {limit.max}; write both"


def _lengths_in_order(field: FieldDefinition) -> Iterator[tuple[Path, str]]:
    if field.min_length is not None and field.max_length is not None and field.min_length > field.max_length:
        yield ("min_length",), f"{field.min_length} is over max_length {field.max_length}"


def _bounds_in_order(field: FieldDefinition) -> Iterator[tuple[Path, str]]:
    low, high = _decimal(field.minimum), _decimal(field.maximum)
    if low is not None and high is not None and low > high:
        yield ("minimum",), f"{field.minimum} is over maximum {field.maximum}"


def _decimal(bound: float | str | None) -> Decimal | None:
    """A bound as a number; None for a date or another text, which only the column's type can put in order."""
    try:
        number = Decimal(str(bound))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _sorts_once(listing: ListDefinition) -> Iterator[tuple[Path, str]]:
    names = [entry.removeprefix("-").split(":")[0] for entry in listing.sort]
    for index, name in enumerate(names):
        if name in names[:index] and listing.sort[index] not in listing.sort[:index]:
            yield ("sort", index), f"{quoted(name)} is sorted by twice"


def _read_has_effect(role: RoleDefinition) -> Iterator[tuple[Path, str]]:
    if role.read is not None and role.read.set is not None:
        yield ("read", "set"), "a read sets nothing; it belongs to create and patch"


def _delete_has_effect(role: RoleDefinition) -> Iterator[tuple[Path, str]]:
    if role.delete is not None and role.delete.set is not None:
        yield ("delete", "set"), "a delete sets nothing; it belongs to create and patch"
    if role.delete is not None and role.delete.fields is not None:
        yield ("delete", "fields"), "a delete takes the whole row; it belongs to read, create and patch"


def _days_in_order(deprecated: DeprecatedDefinition) -> Iterator[tuple[Path, str]]:
    """RFC 9745, section 4: a sunset is not before the deprecation."""
    days = {name: _day(written) for name, written in (("since", deprecated.since), ("sunset", deprecated.sunset)) if written}
    for name, day in days.items():
        if day is None:
            yield (name,), f"{quoted(getattr(deprecated, name))} is no day of the calendar"
    since, sunset = days.get("since"), days.get("sunset")
    if since and sunset and sunset < since:
        yield ("sunset",), f"{deprecated.sunset} is before since, {deprecated.since}"


def _day(written: str) -> date | None:
    try:
        return date.fromisoformat(written)
    except ValueError:
        return None


_RULES: dict[type[msgspec.Struct], tuple[tuple[tuple[str, ...], Callable[[Any], Iterator[tuple[Path, str]]]], ...]] = {
    LimitDefinition: ((("default", "max"), _limit_within_max),),
    FieldDefinition: ((("min_length", "max_length"), _lengths_in_order), (("minimum", "maximum"), _bounds_in_order)),
    ListDefinition: ((("sort",), _sorts_once),),
    DeprecatedDefinition: ((("since", "sunset"), _days_in_order),),
    RoleDefinition: ((("read",), _read_has_effect), (("delete",), _delete_has_effect)),
}
"""Struct -> what must hold between its keys: the keys that take part, and a function that yields (path below, message)."""
