"""An SQL expression as PostgreSQL prints it (`pg_get_expr`) in, a tree out. Pure.

PostgreSQL prints constraints fully parenthesised and with every cast, so a small grammar reads nearly all of them. Casts are
dropped: what matters to `checks` is which column is compared with which literal. A part that the grammar does not know
becomes `Opaque`, and the parts around it are still understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec


class Literal(msgspec.Struct, frozen=True):
    """A constant by its text; None is NULL. Booleans are "true" and "false"."""

    text: str | None


class Name(msgspec.Struct, frozen=True):
    """A column, or `VALUE` in a domain's constraint (as `value`)."""

    column: str


class Call(msgspec.Struct, frozen=True):
    """A function's call; `TRIM(BOTH FROM x)` is `btrim(x)`, `CURRENT_DATE` and the like are calls without arguments."""

    function: str
    arguments: tuple[Node, ...]


class Operation(msgspec.Struct, frozen=True):
    """A binary operator that is not AND or OR. `left_sql` and `right_sql` are the operands as they were printed."""

    operator: str
    left: Node
    right: Node
    left_sql: str
    right_sql: str


class Quantified(msgspec.Struct, frozen=True):
    """`left operator ANY (ARRAY[…])`, or `ALL` where `every`."""

    operator: str
    left: Node
    items: tuple[Node, ...]
    every: bool


class Array(msgspec.Struct, frozen=True):
    """`ARRAY[…]` as an operand."""

    items: tuple[Node, ...]


class Test(msgspec.Struct, frozen=True):
    """`operand IS [NOT] NULL|TRUE|FALSE|UNKNOWN`; `what` in lower case."""

    operand: Node
    what: str
    negated: bool


class Not(msgspec.Struct, frozen=True):
    operand: Node


class And(msgspec.Struct, frozen=True):
    terms: tuple[Node, ...]


class Or(msgspec.Struct, frozen=True):
    terms: tuple[Node, ...]


class Opaque(msgspec.Struct, frozen=True):
    """Something that is not understood; `names` are the columns it reads, as far as its words tell."""

    names: tuple[str, ...]


Node = Literal | Name | Call | Operation | Quantified | Array | Test | Not | And | Or | Opaque

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>[eEbBxX]?'(?:[^']|'')*')
    | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<word>[^\W\d][\w$]*)
    | (?P<cast>::)
    | (?P<operator>[-+*/<>=~!@\#%^&|`?]+)
    | (?P<mark>[()\[\],.:])
    )""",
    re.VERBOSE,
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_KEYWORDS = frozenset(
    _words("and or not is null true false any all array case when then else end row between in like from both leading trailing")
)
_NILADIC = frozenset(
    ["current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_user", "session_user"]
)
_TYPE_WORDS = frozenset(_words("varying precision with without time zone year month day hour minute second to"))
_COMPARISONS = frozenset({"=", "<>", "<", "<=", ">", ">="})
_BINDING = {"or": 1, "and": 2, "is": 4, **dict.fromkeys(_COMPARISONS, 5), "+": 7, "-": 7, "*": 8, "/": 8, "%": 8, "^": 9}
_OTHER_OPERATOR = 6
_PLAIN_ARRAY = re.compile(r"'\{[\w. -]+(,[\w. -]+)*\}'")


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    start: int
    end: int


class _NotUnderstood(Exception):
    pass


def parse_expression(sql: str) -> Node:
    """The tree of `sql`. Never fails: what cannot be read at all is one `Opaque`."""
    tokens = _tokens(sql)
    parser = _Parser(sql, tokens)
    try:
        node = parser.expression(0)
    except _NotUnderstood:
        return Opaque(_names(tokens))
    return node if parser.at_end else Opaque(_names(tokens))


def replace_names(sql: str, replacement: Callable[[str], str | None]) -> str:
    """`sql` with each name for which `replacement` gives a text replaced by it. Functions' and types' names are left alone."""
    tokens = _tokens(sql)
    parts: list[str] = []
    position = 0
    for token, before, after in zip(tokens, [None, *tokens], [*tokens[1:], None], strict=False):
        if (
            token.kind not in ("word", "quoted")
            or (before and before.text in ("::", "."))
            or (after and after.text in ("(", "."))
        ):
            continue
        text = replacement(_unquoted(token))
        if text is not None:
            parts += [sql[position : token.start], text]
            position = token.end
    return "".join([*parts, sql[position:]])


def names_read(sql: str) -> tuple[str, ...]:
    """Every word of `sql` that may name a column, in order, once."""
    return _names(_tokens(sql))


def _tokens(sql: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(sql.rstrip()):
        match = _TOKEN.match(sql, position)
        if match is None or match.lastgroup is None:
            return [_Token("unknown", sql, 0, len(sql))]
        tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup), match.end()))
        position = match.end()
    return tokens


def _unquoted(token: _Token) -> str:
    return token.text[1:-1].replace('""', '"') if token.kind == "quoted" else token.text.lower()


def _names(tokens: list[_Token]) -> tuple[str, ...]:
    words = [
        _unquoted(token)
        for token in tokens
        if token.kind == "quoted" or (token.kind == "word" and token.text.lower() not in _KEYWORDS)
    ]
    return tuple(dict.fromkeys(words))


class _Parser:
    """Precedence climbing over the tokens."""

    def __init__(self, sql: str, tokens: list[_Token]) -> None:
        self._sql = sql
        self._tokens = tokens
        self._position = 0

    @property
    def at_end(self) -> bool:
        return self._position >= len(self._tokens)

    def expression(self, binding: int) -> Node:
        first = self._position
        left = self._prefix()
        while not self.at_end:
            operator = self._infix()
            power = _BINDING.get(operator, _OTHER_OPERATOR) if operator else 0
            if power <= binding:
                break
            self._position += 1
            left = self._joined(left, operator, power, first)
        return left

    def _infix(self) -> str:
        token = self._tokens[self._position]
        word = token.text.lower()
        return word if token.kind == "operator" or word in ("and", "or", "is") else ""

    def _joined(self, left: Node, operator: str, power: int, first: int) -> Node:
        operator_at = self._position - 1
        if operator == "is":
            return self._test(left)
        if operator in ("and", "or"):
            right = self.expression(power)
            return (
                And((*_terms(left, And), *_terms(right, And)))
                if operator == "and"
                else Or((*_terms(left, Or), *_terms(right, Or)))
            )
        if self._peek("any", "all"):
            return self._quantified(left, operator)
        start = self._position
        right = self.expression(power)
        return Operation(operator, left, right, self._text(first, operator_at), self._text(start, self._position))

    def _text(self, first: int, end: int) -> str:
        return self._sql[self._tokens[first].start : self._tokens[end - 1].end]

    def _test(self, operand: Node) -> Node:
        negated = self._accept("not")
        token = self._next()
        if token.text.lower() not in ("null", "true", "false", "unknown"):
            raise _NotUnderstood
        return Test(operand, token.text.lower(), negated)

    def _quantified(self, left: Node, operator: str) -> Node:
        every = self._next().text.lower() == "all"
        self._expect("(")
        start = self._position
        try:
            items = self._array_items()
            self._expect(")")
        except _NotUnderstood:
            self._position = start
            return self._opaque_until_close()
        return Quantified(operator, left, items, every)

    def _array_items(self) -> tuple[Node, ...]:
        """`ARRAY[…]`, `(ARRAY[…])::text[]` or `'{a,b}'::text[]`; anything else is not understood."""
        if not self.at_end and _PLAIN_ARRAY.fullmatch(self._tokens[self._position].text):
            items: tuple[Node, ...] = tuple(map(Literal, self._next().text[2:-2].split(",")))
        elif self._accept("("):
            items = self._array_items()
            self._expect(")")
        elif self._accept("array"):
            self._expect("[")
            items = self._list("]")
        else:
            raise _NotUnderstood
        self._casts()
        return items

    def _prefix(self) -> Node:
        token = self._next()
        node = self._primary(token)
        while not self.at_end:
            if self._peek("::"):
                self._casts()
            elif self._peek("["):
                self._next()
                self.expression(0)
                self._expect("]")
                node = Opaque(_names([token]))
            elif self._peek("collate"):
                self._position += 1
                self._qualified()
            else:
                break
        return node

    def _primary(self, token: _Token) -> Node:
        word = token.text.lower()
        match token.kind:
            case "string":
                return Literal(_string(token.text))
            case "number":
                return Literal(token.text)
            case "operator" if token.text in ("-", "+"):
                return self._signed(token.text)
            case "mark" if token.text == "(":
                node = self.expression(0)
                self._expect(")")
                return node
            case "quoted":
                return self._named(token)
            case "word" if word in ("true", "false"):
                return Literal(word)
            case "word" if word == "null":
                return Literal(None)
            case "word" if word == "array" and self._accept("["):
                return Array(self._list("]"))
            case "word" if word == "not":
                return Not(self.expression(3))
            case "word" if word in _NILADIC:
                return Call(word, ())
            case "word" if word == "case":
                return self._opaque_until_end()
            case "word" if word not in _KEYWORDS or word == "row":
                return self._named(token)
        raise _NotUnderstood

    def _signed(self, sign: str) -> Node:
        operand = self.expression(9)
        if isinstance(operand, Literal) and operand.text is not None:
            return Literal(operand.text if sign == "+" else f"-{operand.text}")
        return Opaque(())

    def _named(self, token: _Token) -> Node:
        name = token
        while self._accept("."):
            name = self._next()
        if not self._accept("("):
            return Name(_unquoted(name))
        start = self._position
        function = _unquoted(name)
        if function == "trim" and self._peek("both"):
            self._position += 1
            function = "btrim"
            if not self._accept("from"):
                raise _NotUnderstood
        try:
            return Call(function, self._list(")"))
        except _NotUnderstood:
            self._position = start
            return self._opaque_until_close()

    def _list(self, closing: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._accept(closing):
            if items:
                self._expect(",")
            items.append(self.expression(0))
        return tuple(items)

    def _opaque_until_close(self) -> Node:
        return self._opaque(lambda token: {"(": 1, ")": -1}.get(token.text, 0))

    def _opaque_until_end(self) -> Node:
        return self._opaque(lambda token: {"case": 1, "end": -1}.get(token.text.lower(), 0))

    def _opaque(self, change: Callable[[_Token], int]) -> Node:
        start, depth = self._position, 1
        while depth:
            depth += change(self._next())
        return Opaque(_names(self._tokens[start : self._position]))

    def _casts(self) -> None:
        while self._accept("::"):
            self._qualified()
            while not self.at_end and self._tokens[self._position].text.lower() in _TYPE_WORDS:
                self._position += 1
                self._type_arguments()
            while self._accept("["):
                self._expect("]")

    def _qualified(self) -> None:
        self._next()
        while self._accept("."):
            self._next()
        self._type_arguments()

    def _type_arguments(self) -> None:
        if self._accept("("):
            self._opaque_until_close()

    def _next(self) -> _Token:
        if self.at_end:
            raise _NotUnderstood
        self._position += 1
        return self._tokens[self._position - 1]

    def _peek(self, *texts: str) -> bool:
        if self.at_end:
            return False
        token = self._tokens[self._position]
        return token.kind not in ("string", "quoted") and token.text.lower() in texts

    def _accept(self, text: str) -> bool:
        found = self._peek(text)
        self._position += found
        return found

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise _NotUnderstood


def _terms(node: Node, kind: type[And] | type[Or]) -> tuple[Node, ...]:
    return node.terms if isinstance(node, (And, Or)) and isinstance(node, kind) else (node,)


def _string(text: str) -> str:
    return text[text.index("'") + 1 : -1].replace("''", "'")
