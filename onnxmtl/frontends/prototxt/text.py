"""Prototxt text into messages, with the line of every field.

protobuf's own ``text_format`` stops at the first unknown field, or drops all of them without a word. Here nothing is
dropped silently: what the schema does not know is listed with its line, and every known field keeps its line, so that
the converter can say what it did not use. No recursion: nesting is a list, and it is bounded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from google.protobuf import text_encoding  # type: ignore[import-untyped,unused-ignore]
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped,unused-ignore]

from onnxmtl.errors import ModelError
from onnxmtl.frontends.prototxt.schema import is_repeated, message

MAX_BYTES = 64 << 20
MAX_DEPTH = 32

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.]))
    |(?P<word>-?[A-Za-z_]\w*)
    |(?P<mark>[][{}<>:;,])""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_TRUE = frozenset({"true", "True", "t", "1"})
_FALSE = frozenset({"false", "False", "f", "0"})
_INTEGERS = frozenset(
    {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
    | {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
)
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})


@dataclasses.dataclass(frozen=True)
class Place:
    """A field of the file.

    Attributes:
        path: Dotted, from the layer (or the net) down, e.g. ``"convolution_param.weight_filler.std"``.
        line: Line in the file, from 1.
    """

    path: str
    line: int


@dataclasses.dataclass
class Source:
    """Where a layer, or the net itself, stands in the file.

    Attributes:
        line: Where it begins.
        fields: Its known fields, in order, those of nested messages included.
        unknown: Fields that the schema does not have (their contents are not read).
        again: Fields that hold one value and are given once more: the last one counts.
    """

    line: int
    fields: list[Place] = dataclasses.field(default_factory=list)
    unknown: list[Place] = dataclasses.field(default_factory=list)
    again: list[Place] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Document:
    """A prototxt file that has been read.

    Attributes:
        file: Its path, for messages.
        net: The ``NetParameter``.
        header: Where the fields outside of layers stand.
        layer: Sources of ``net.layer``.
        layers: Sources of ``net.layers`` (V1).
    """

    file: str
    net: Any
    header: Source
    layer: list[Source]
    layers: list[Source]


def read(path: Path) -> Document:
    """Read a prototxt file.

    Raises:
        ModelError: No such file, not text, too large, or a syntax error; with the line.
    """
    if not path.is_file():
        what = "is a directory; give the .prototxt file in it" if path.is_dir() else "no such file"
        msg = f"{path}: {what}"
        raise ModelError(msg)
    try:
        if path.stat().st_size > MAX_BYTES:
            msg = (
                f"{path}: is larger than {MAX_BYTES >> 20} MiB; weights belong into a .caffemodel, given with --weights"
            )
            raise ModelError(msg)
        content = path.read_bytes()
    except OSError as e:
        msg = f"{path}: cannot be read ({e.strerror})"
        raise ModelError(msg) from e
    if b"\0" in content:
        msg = f"{path}: is not text; a .caffemodel is given with --weights, beside the .prototxt of the network"
        raise ModelError(msg)
    return parse(content.decode("utf-8-sig", errors="replace"), str(path))


def parse(text: str, file: str = "<text>") -> Document:
    """Prototxt text -> document; `file` is named in errors.

    Raises:
        ModelError: A syntax error, a value of the wrong kind, or nesting beyond all reason; with the line.
    """
    return _Parser(text, file).run()


@dataclasses.dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


@dataclasses.dataclass
class _Frame:
    """An open message (None: one that is skipped), or an open list of values of `field`."""

    target: Any
    close: str
    line: int
    path: str
    source: Source
    field: FieldDescriptor | None = None  # of an open list
    skipped: bool = False
    seen: set[str] = dataclasses.field(default_factory=set)


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.tokens = self._scan(text)
        self.token = next(self.tokens)
        header = Source(1)
        self.document = Document(file, message("NetParameter"), header, [], [])
        self.stack = [_Frame(self.document.net, "", 1, "", header)]

    def run(self) -> Document:
        while True:
            frame = self.stack[-1]
            token = self.token
            if token.kind == "end":
                if len(self.stack) == 1:
                    return self.document
                self._fail(f"{frame.close!r} is missing: the bracket of line {frame.line} is never closed")
            if token.text == frame.close and token.kind == "mark":
                self._advance()
                self.stack.pop()
            elif token.kind == "mark" and token.text in ",;":
                self._advance()
            elif frame.close == "]":
                self._value(frame, frame.field, frame.path, token.line)
            else:
                self._field(frame)

    def _field(self, frame: _Frame) -> None:
        """``name: value``, ``name { … }`` or ``name: [ … ]``."""
        name, line = self._name()
        colon = self._take(":")
        field = None if frame.skipped else frame.target.DESCRIPTOR.fields_by_name.get(name)
        opens = self.token.kind == "mark" and self.token.text in "{<["
        if not colon and not opens:
            self._fail(f"':' or '{{' expected after {name!r}, not {self._shown()}")
        path = f"{frame.path}.{name}" if frame.path else name
        if field is None and not frame.skipped:
            frame.source.unknown.append(Place(path, line))
        if self.token.kind == "mark" and self.token.text == "[":
            self._advance()
            self._push(_Frame(frame.target, "]", line, path, frame.source, field, frame.skipped or field is None))
        else:
            self._value(frame, field, path, line)

    def _value(self, frame: _Frame, field: FieldDescriptor | None, path: str, line: int) -> None:
        """One value, of a field or in a list; a message is opened."""
        token = self.token
        if token.kind in ("mark", "end"):
            if token.text not in _CLOSING:
                self._fail(f"a value is expected for {path!r}, not {self._shown()}")
            if field is not None and field.message_type is None:
                self._fail(f"{path!r} is one value, not a message in brackets")
            self._advance()
            self._open(frame, field, path, line, _CLOSING[token.text])
            return
        values = [token]
        self._advance()
        while values[0].kind == "string" and self.token.kind == "string":  # adjacent strings are one
            values.append(self.token)
            self._advance()
        if field is None:
            return
        if field.message_type is not None:
            self._fail(f"{path!r} is a message: '{{' expected", line)
        self._store(frame, field, path, values)

    def _open(self, frame: _Frame, field: FieldDescriptor | None, path: str, line: int, close: str) -> None:
        if field is None or frame.skipped:
            self._push(_Frame(None, close, line, path, frame.source, skipped=True))
            return
        source = frame.source
        if len(self.stack) == 1 + (frame.close == "]") and field.name in ("layer", "layers"):
            source, path = Source(line), ""
            (self.document.layer if field.name == "layer" else self.document.layers).append(source)
        else:
            source.fields.append(Place(path, line))
        if is_repeated(field):
            target = getattr(frame.target, field.name).add()
        else:
            self._note_again(frame, field, path, line)
            target = getattr(frame.target, field.name)
            target.SetInParent()
        self._push(_Frame(target, close, line, path, source))

    def _store(self, frame: _Frame, field: FieldDescriptor, path: str, values: list[_Token]) -> None:
        line = values[0].line
        value = self._convert(field, values, path)
        if value is None:
            frame.source.unknown.append(Place(f"{path}: {values[0].text}", line))
            return
        frame.source.fields.append(Place(path, line))
        try:
            if is_repeated(field):
                getattr(frame.target, field.name).append(value)
            else:
                self._note_again(frame, field, path, line)
                setattr(frame.target, field.name, value)
        except (TypeError, ValueError, OverflowError):
            self._fail(f"{values[0].text} is out of range for {path!r}", line)

    def _convert(self, field: FieldDescriptor, values: list[_Token], path: str) -> Any:
        """Token -> Python value of the field's type; None for an unknown engine, which means nothing to us."""
        token, kind = values[0], field.cpp_type
        try:
            if kind == FieldDescriptor.CPPTYPE_STRING and token.kind == "string":
                content = b"".join(text_encoding.CUnescape(t.text[1:-1]) for t in values)
                return self._printable(content.decode(errors="replace"), token)
            if kind == FieldDescriptor.CPPTYPE_BOOL and token.text in _TRUE | _FALSE:
                return token.text in _TRUE
            if kind in _INTEGERS and token.kind == "number":
                return _integer(token.text)
            if kind in _FLOATS and token.kind in ("number", "word"):
                return float(token.text.rstrip("fF") if token.kind == "number" else token.text)
            if kind == FieldDescriptor.CPPTYPE_ENUM:
                return self._enum(field, token, path)
        except ValueError:
            pass
        expected = {FieldDescriptor.CPPTYPE_STRING: "a text in quotes", FieldDescriptor.CPPTYPE_BOOL: "true or false"}
        what = expected.get(kind, "a whole number" if kind in _INTEGERS else "a number")
        self._fail(f"{path!r} takes {what}, not {token.text[:40]}", token.line)

    def _printable(self, value: str, token: _Token) -> str:
        if not value.isprintable():  # names end up in messages of one line
            self._fail("a text with line breaks or other control characters in it", token.line)
        return value

    def _enum(self, field: FieldDescriptor, token: _Token, path: str) -> int | None:
        known = field.enum_type.values_by_name
        if token.kind == "word" and token.text in known:
            return int(known[token.text].number)
        if token.kind == "number" and _integer(token.text) in field.enum_type.values_by_number:
            return _integer(token.text)
        if field.name == "engine":
            return None
        self._fail(f"{path!r} takes {', '.join(known)}, not {token.text[:40]}", token.line)

    def _note_again(self, frame: _Frame, field: FieldDescriptor, path: str, line: int) -> None:
        if field.name in frame.seen:
            frame.source.again.append(Place(path, line))
        frame.seen.add(field.name)

    def _push(self, frame: _Frame) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} brackets inside each other", frame.line)
        self.stack.append(frame)

    def _name(self) -> tuple[str, int]:
        """A field name, or ``[an.extension]``, which no schema of ours has."""
        token = self.token
        if token.kind == "word" and not token.text.startswith("-"):
            self._advance()
            return token.text, token.line
        self._fail(f"a field name is expected, not {self._shown()}")

    def _take(self, mark: str) -> bool:
        if self.token.kind == "mark" and self.token.text == mark:
            self._advance()
            return True
        return False

    def _advance(self) -> None:
        self.token = next(self.tokens)

    def _shown(self) -> str:
        return "the end of the file" if self.token.kind == "end" else repr(self.token.text[:40])

    def _fail(self, what: str, line: int | None = None) -> NoReturn:
        msg = f"{self.file}:{line or self.token.line}: {what}"
        raise ModelError(msg)

    def _scan(self, text: str) -> Iterator[_Token]:
        position, line = 0, 1
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                shown = text[position : position + 20].split("\n")[0]
                what = "a text without its closing quote" if shown[:1] in "\"'" else "unexpected"
                msg = f"{self.file}:{line}: {what}: {shown!r}"
                raise ModelError(msg)
            kind = str(match.lastgroup)
            if kind != "space":
                yield _Token(kind, match.group(), line)
            else:
                line += match.group().count("\n")
            position = match.end()
        yield _Token("end", "", line)


def _integer(text: str) -> int:
    """Decimal, hexadecimal or octal, as in C."""
    digits = text.lstrip("+-")
    sign = -1 if text.startswith("-") else 1
    if digits[:2] in ("0x", "0X"):
        return sign * int(digits, 16)
    if len(digits) > 20:
        msg = "too long"
        raise ValueError(msg)
    return sign * int(digits, 8 if len(digits) > 1 and digits.startswith("0") else 10)
