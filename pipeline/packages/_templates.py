"""Fills templates of source code. What comes from a model, such as a label, goes through a filter for its language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def kotlin(text: str) -> str:
    """A string literal of Kotlin. Characters outside the basic plane are two escapes."""
    return _quoted(text, lambda point: "".join(f"\\u{unit:04x}" for unit in _utf16(point)), {"$": "\\$"}, plane=0xFFFF)


def swift(text: str) -> str:
    """A string literal of Swift."""
    return _quoted(text, lambda point: f"\\u{{{point:x}}}", {})


def python(text: str) -> str:
    """A string literal of Python."""
    return _quoted(text, lambda point: f"\\U{point:08x}" if point > 0xFFFF else f"\\u{point:04x}", {})


FILTERS: Mapping[str, Callable[[str], str]] = {"kotlin": kotlin, "swift": swift, "python": python}


def render(template: Path, **values: Any) -> str:
    """The template with these values. The filters `kotlin`, `swift` and `python` write string literals, with quotes.

    A value that the template names and that is missing is an error.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(FILTERS)
    return environment.from_string(template.read_text()).render(values)


def _quoted(text: str, escape: Callable[[int], str], special: Mapping[str, str], plane: int = 0x10FFFF) -> str:
    """Characters that are not printable, such as those that change the direction of text, are escaped."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", **special}
    return (
        '"'
        + "".join(escapes.get(c) or (c if c.isprintable() and ord(c) <= plane else escape(ord(c))) for c in text)
        + '"'
    )


def _utf16(point: int) -> list[int]:
    if point <= 0xFFFF:
        return [point]
    high, low = divmod(point - 0x10000, 0x400)
    return [0xD800 + high, 0xDC00 + low]
