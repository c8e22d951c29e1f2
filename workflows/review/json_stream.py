"""Objects of a GeoJSON file one after the other, whatever its layout, in memory that does not grow with it.

No layout is assumed: QuPath writes all objects in one line or one object over many lines.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, TextIO

from coverslip.errors import RequestError

CHUNK = 1 << 20
# Characters of one object: a drawn outline has thousands of points, some 20 characters each.
LARGEST_OBJECT = 64 << 20
CAST = "export it again, as GeoJSON"
SPACE = re.compile(r"[ \t\r\n]*")


def read_features(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The features of a FeatureCollection, of a bare list, or the one feature that the file is.

    No more than one object and one piece of the file are held. Raises RequestError for a file that cannot be
    read, is no GeoJSON, is cut off, or has an object of more than 64 million characters.
    """
    subject = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig") as stream:
            yield from _features(_Source(stream))
    except UnicodeDecodeError as error:
        raise RequestError(
            subject, "is no text: compressed, or not GeoJSON", "unpack it, or " + CAST
        ) from error
    except OSError as error:
        raise RequestError(subject, f"cannot be read ({error.strerror or error})", CAST) from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(subject, f"is no whole GeoJSON ({error})", CAST) from error


class _Source:
    """Text with a place in it; pieces before the place are forgotten."""

    def __init__(self, stream: TextIO):
        self._stream, self._text, self._at = stream, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no space, not taken; "" at the end."""
        while True:
            found = SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, *which: str) -> str:
        """The next character, which must be one of these. Raises ValueError."""
        found = self.peek()
        if found not in which or not found:
            raise ValueError(f"{' or '.join(which)} expected, not {found or 'the end'}")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value. Raises ValueError."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                self._go_on()
                continue
            # a number at the end of a piece may have more digits in the next
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value

    def _go_on(self) -> None:
        if len(self._text) - self._at > LARGEST_OBJECT:
            raise ValueError(f"an object has more than {LARGEST_OBJECT} characters, or is broken")
        if not self._more():
            raise ValueError("it is cut off, or broken")

    def _more(self) -> bool:
        """As much again as is not taken yet, so that a long object is not tried too often."""
        rest = self._text[self._at :]
        piece = self._stream.read(max(CHUNK, len(rest)))
        self._text, self._at = rest + piece, 0
        return bool(piece)


def _features(source: _Source) -> Iterator[dict[str, Any]]:
    if source.peek() == "[":
        yield from _list(source)
    else:
        yield from _object(source)
    if source.peek():
        raise ValueError("there is more after its end")


def _object(source: _Source) -> Iterator[dict[str, Any]]:
    """A collection's features as they come; anything else when it is whole."""
    source.take("{")
    members: dict[str, Any] = {}
    collection = False
    end = source.take("}") if source.peek() == "}" else ","
    while end == ",":
        key = source.value()
        source.take(":")
        if key == "features" and source.peek() == "[":
            collection = True
            yield from _list(source)
        else:
            members[key] = source.value()
        end = source.take(",", "}")
    if collection:
        return
    if members.get("type") != "Feature":
        raise ValueError("it holds no features")
    yield members


def _list(source: _Source) -> Iterator[dict[str, Any]]:
    source.take("[")
    end = source.take("]") if source.peek() == "]" else ","
    while end == ",":
        feature = source.value()
        if not isinstance(feature, dict):
            raise ValueError("a feature is no object")
        yield feature
        end = source.take(",", "]")
