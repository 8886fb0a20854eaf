"""Go's readers and their words."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.go import text as gotext
from pipeline.go.text import GoError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", "80")),
        (":8080", ("", "8080")),
        ("a:", ("a", "")),
        ("[::1]:80", ("::1", "80")),
        ("[fe80::1%eth0]:http", ("fe80::1%eth0", "http")),
    ],
)
def test_host_and_port_are_split(text: str, expected: tuple[str, str]) -> None:
    assert gotext.split_host_port(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing port in address"),
        ("foo", "address foo: missing port in address"),
        ("@", "address @: missing port in address"),
        ("a:b:c", "address a:b:c: too many colons in address"),
        ("::1", "address ::1: too many colons in address"),
        ("[::1]", "address [::1]: missing port in address"),
        ("[::1:80", "address [::1:80: missing ']' in address"),
        ("[a]b:80", "address [a]b:80: missing port in address"),
        ("[a]:b:80", "address [a]:b:80: too many colons in address"),
        ("a]:80", "address a]:80: unexpected ']' in address"),
        ("a[:80", "address a[:80: unexpected '[' in address"),
    ],
)
def test_what_is_no_pair_has_gos_words(text: str, words: str) -> None:
    with pytest.raises(GoError) as error:
        gotext.split_host_port(text)
    assert str(error.value) == words


@pytest.mark.parametrize("text", ["", "x", "-1", "+1", " 1", "1_0", "0x1", "\u0661"])
def test_what_is_no_number_is_invalid_syntax(text: str) -> None:
    with pytest.raises(GoError, match=r'^strconv.ParseUint: parsing ".*": invalid syntax$'):
        gotext.parse_uint(text, 16)


@pytest.mark.parametrize("text", ["65536", "9" * 5000])
def test_a_number_beyond_the_bits_is_out_of_range(text: str) -> None:
    with pytest.raises(GoError, match=f'parsing "{text}": value out of range'):
        gotext.parse_uint(text, 16)


@given(st.integers(0, 65535))
def test_ports_are_read(port: int) -> None:
    assert gotext.parse_uint(str(port), 16) == port


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp://1.2.3.4:5", ("tcp", "//1.2.3.4:5")),
        ("SSH-tunnel://a", ("ssh-tunnel", "//a")),
        ("/path", ("", "/path")),
    ],
)
def test_schemes_are_split(text: str, expected: tuple[str, str]) -> None:
    assert gotext.split_scheme(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (":8080", 'parse ":8080": missing protocol scheme'),
        ("1.2.3.4:80", 'parse "1.2.3.4:80": first path segment in URL cannot contain colon'),
        ("tcp://a\n", 'parse "tcp://a\\n": net/url: invalid control character in URL'),
    ],
)
def test_what_is_no_url_has_gos_words(text: str, words: str) -> None:
    with pytest.raises(GoError) as error:
        gotext.split_scheme(text)
    assert str(error.value) == words


def test_only_the_first_value_of_a_body_counts_and_keys_have_no_case() -> None:
    body = b' {"LOCAL": "a", "Records": [{"Name": "b"}, null], "other": 1} garbage {'
    keys = gotext.first_object(body)
    assert keys == {"local": "a", "records": [{"name": "b"}, None], "other": 1}


def test_a_number_of_thousands_of_digits_is_a_number() -> None:
    assert gotext.first_object(b'{"a": ' + b"1" * 5000 + b"}") == {"a": float("inf")}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "EOF"),
        (b"  \n", "EOF"),
        (b"{", "unexpected EOF"),
        (b'{"a":"b', "unexpected EOF"),
        (b"hello", "invalid character 'h' looking for beginning of value"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
        (b"[1]", "json: cannot unmarshal array into Go value of type object"),
        (b"7", "json: cannot unmarshal number into Go value of type object"),
    ],
)
def test_what_is_no_object_has_gos_words(body: bytes, words: str) -> None:
    with pytest.raises(GoError) as error:
        gotext.first_object(body)
    assert str(error.value) == words


def test_null_is_an_empty_object() -> None:
    assert gotext.first_object(b"null") == {}


def test_deep_nesting_is_refused() -> None:
    for depth in (200, 100_000):
        with pytest.raises(GoError, match="exceeded max depth"):
            gotext.first_object(b'{"a":' * depth + b"1" + b"}" * depth)


@given(st.binary(max_size=60))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        keys = gotext.first_object(body)
    except GoError:
        return
    gotext.dumps(keys).encode("utf-8")


def test_lone_surrogates_become_replacement_characters() -> None:
    assert gotext.first_object(b'{"a": "\\ud800"}') == {"a": "\ufffd"}


def test_json_is_compact_escapes_html_and_ends_in_a_newline() -> None:
    assert gotext.dumps({"a": "<&>\u2028", "b": [1, None]}) == (
        '{"a":"\\u003c\\u0026\\u003e\\u2028","b":[1,null]}\n'
    )
    assert json.loads(gotext.dumps({"a": "<&>\u2028"})) == {"a": "<&>\u2028"}
