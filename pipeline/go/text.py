"""Parses texts as Go's standard library does, with the same error texts.

Clients of gvproxy's HTTP API show and compare these texts. The module covers what the API needs: host:port
pairs, unsigned integers, the scheme of a URL, and the first JSON value of a body.
"""

import json
import re
from typing import Final

from pipeline.go.flags import quote

MAX_DEPTH: Final = 64
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_KINDS: Final[dict[type, str]] = {
    bool: "bool",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


class GoError(ValueError):
    """The text cannot be parsed. The words are Go's."""


def split_host_port(text: str) -> tuple[str, str]:
    """``host:port`` or ``[host]:port``; both may be empty (net.SplitHostPort)."""

    def fail(words: str) -> GoError:
        return GoError(f"address {text}: {words}" if text else words)

    host, colon, port = text.rpartition(":")
    if not colon:
        raise fail("missing port in address")
    if text.startswith("["):
        end = text.find("]")
        if end < 0:
            raise fail("missing ']' in address")
        if end + 1 != len(host):
            raise fail(
                "too many colons in address" if text[end + 1 : end + 2] == ":" else "missing port in address"
            )
        host = host[1:-1]
    elif ":" in host:
        raise fail("too many colons in address")
    for bracket in "[]":
        if bracket in host + port:
            raise fail(f"unexpected '{bracket}' in address")
    return host, port


def parse_uint(text: str, bits: int) -> int:
    """The number in decimal digits, of at most ``bits`` bits (strconv.ParseUint with base 10)."""
    if not re.fullmatch("[0-9]+", text, re.ASCII):
        raise GoError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    # int() refuses thousands of digits. Such a number is out of range anyway.
    value = int(text) if len(text) < 1000 else 1 << bits
    if value >> bits:
        raise GoError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return value


def split_scheme(text: str) -> tuple[str, str]:
    """(scheme in lower case or "", text after its colon), as net/url splits a URL."""
    if re.search("[\x00-\x1f\x7f]", text):
        raise GoError(f"parse {quote(text)}: net/url: invalid control character in URL")
    if text.startswith(":"):
        raise GoError(f"parse {quote(text)}: missing protocol scheme")
    found = re.match(r"([a-zA-Z][a-zA-Z0-9+.\-]*):", text)
    if found is not None:
        return found[1].lower(), text[found.end() :]
    if ":" in text.partition("?")[0].partition("/")[0]:
        raise GoError(f"parse {quote(text)}: first path segment in URL cannot contain colon")
    return "", text


def first_object(body: bytes) -> dict[str, object]:
    """The first JSON value of a body: an object, with its keys in lower case. null is an empty object.

    What follows that value is ignored. Lone surrogates become U+FFFD. Numbers become floats: no request uses
    a number, and int() would refuse thousands of digits.
    """
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    if not text:
        raise GoError("EOF")
    value: object
    try:
        value, _ = json.JSONDecoder(parse_int=float, parse_constant=_no_constant).raw_decode(text)
    except json.JSONDecodeError as error:
        at = error.pos
        if at >= len(text) or error.msg.startswith("Unterminated"):
            raise GoError("unexpected EOF") from None
        raise GoError(f"invalid character {_character(text[at])} looking for beginning of value") from None
    except RecursionError:
        raise GoError("exceeded max depth") from None
    if value is None:
        return {}
    clean = _clean(value, 0)
    if not isinstance(clean, dict):
        raise GoError(f"json: cannot unmarshal {kind_of(value)} into Go value of type object")
    return clean


def kind_of(value: object) -> str:
    """The kind of a JSON value that first_object() has read, in Go's words."""
    return _KINDS[type(value)]


def _clean(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise GoError("exceeded max depth")
    if isinstance(value, dict):
        return {_text(key).lower(): _clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    return _SURROGATES.sub("\ufffd", value)


def _no_constant(name: str) -> object:
    raise GoError(f"invalid character {_character(name[0])} looking for beginning of value")


def _character(char: str) -> str:
    return "'\\''" if char == "'" else f"'{quote(char)[1:-1]}'" if char != '"' else "'\"'"


def dumps(value: object) -> str:
    """JSON as Go's encoder writes it: compact, &, < and > escaped, a newline at the end."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for char in "&<>\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text + "\n"
