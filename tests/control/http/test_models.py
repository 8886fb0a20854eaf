"""Bodies of requests: keys in any case, null as nothing, and Go's words for what is wrong."""

import json

import pytest

from pipeline.control.http import models
from pipeline.control.http.models import ExposeRequest, ZoneRequest
from pipeline.go.text import GoError


def test_keys_have_no_case_and_what_is_missing_or_null_is_empty() -> None:
    asked = models.read(ExposeRequest, b' {"LOCAL": "a", "Remote": null, "other": [{}]} garbage {')
    assert asked == ExposeRequest(local="a")
    assert (asked.remote, asked.protocol, asked.proxy_protocol) == ("", "", "")
    assert models.read(ExposeRequest, b"null") == ExposeRequest()


def test_a_record_that_is_null_is_empty() -> None:
    zone = models.read(ZoneRequest, b'{"name": "a.", "Records": [{"Name": "b", "ip": null}, null]}')
    empty = {"Name": "", "IP": "", "Regexp": ""}
    assert zone.model_dump(by_alias=True) == {
        "Name": "a.",
        "Records": [{**empty, "Name": "b"}, empty],
        "DefaultIP": "",
    }
    assert models.read(ZoneRequest, b'{"Records": null, "defaultIP": "1.2.3.4"}').default_ip == "1.2.3.4"


WRONG = [
    ({"local": 5}, "number", "local", "string"),
    ({"local": "a", "PROTOCOL": True}, "bool", "protocol", "string"),
    ({"remote": ["a"], "protocol": {}}, "array", "remote", "string"),
    ({"proxy_protocol": {}}, "object", "proxy_protocol", "string"),
]


@pytest.mark.parametrize(("keys", "kind", "field", "wanted"), WRONG)
def test_fields_of_another_type_are_refused(
    keys: dict[str, object], kind: str, field: str, wanted: str
) -> None:
    with pytest.raises(GoError) as error:
        models.read(ExposeRequest, json.dumps(keys).encode())
    assert str(error.value) == f"json: cannot unmarshal {kind} into Go struct field {field} of type {wanted}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"records": [1]}', "number into Go struct field records of type list of objects"),
        (b'{"Records": {}}', "object into Go struct field records of type list of objects"),
        (b'{"Records": [{}, "a"]}', "string into Go struct field records of type list of objects"),
        (b'{"Records": [{"IP": 1e999}]}', "number into Go struct field ip of type string"),
        (b'{"DefaultIP": 7}', "number into Go struct field defaultip of type string"),
    ],
)
def test_zones_of_another_shape_are_refused(body: bytes, words: str) -> None:
    with pytest.raises(GoError) as error:
        models.read(ZoneRequest, body)
    assert str(error.value) == f"json: cannot unmarshal {words}"


def test_a_number_of_thousands_of_digits_is_refused_or_passed_over_and_not_a_failure() -> None:
    digits = b"1" * 5000
    assert models.read(ExposeRequest, b'{"more": ' + digits + b"}") == ExposeRequest()
    with pytest.raises(GoError, match="cannot unmarshal number"):
        models.read(ExposeRequest, b'{"local": ' + digits + b"}")
