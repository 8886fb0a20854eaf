"""The description of the HTTP API at /openapi.json (OpenAPI 3.1), made from the few tables below.

Says what a client may rely on. Many paths take any method; the description names the one to use.
Answers are text/plain, JSON ones too, as gvproxy's are; their schema is given all the same. The
two paths that stop speaking HTTP are described as far as OpenAPI has words for it.
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.system import inet

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_MAC: Final = "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"
_NULLABLE_TEXT: Final[Json] = {"type": ["string", "null"]}

_FORWARD: Final[Json] = {
    "type": "object",
    "properties": {
        "local": {**_TEXT, "description": "host address: ip:port, or the path of a unix socket"},
        "remote": {**_TEXT, "description": "the guest's ip:port; for unix tcp://ip:port or ssh-tunnel://..."},
        "protocol": {"enum": [*inet.TCP, *inet.UDP, "unix", "npipe"]},
        "proxy_protocol": {"enum": ["v1", "v2"]},
    },
    "required": ["local", "remote", "protocol"],
    "additionalProperties": False,
}
_RECORD: Final[Json] = {
    "type": "object",
    "properties": {"Name": _TEXT, "IP": _TEXT, "Regexp": {**_TEXT, "description": "RE2 pattern"}},
    "required": ["Name", "IP"],
}
_ZONE: Final[Json] = {
    "type": "object",
    "properties": {"Name": _TEXT, "Records": {"type": "array", "items": _RECORD}, "DefaultIP": _TEXT},
    "required": ["Name", "Records", "DefaultIP"],
}
_LEASES: Final[Json] = {"type": "object", "additionalProperties": {"type": "string", "pattern": _MAC}}
_COUNTS: Final[Json] = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "integer"}, {"$ref": "#/components/schemas/Counters"}]},
}

SCHEMAS: Final[Mapping[str, Json]] = {
    "Forward": _FORWARD,
    "Zone": _ZONE,
    "Leases": _LEASES,
    "Counters": _COUNTS,
    "Cam": {"type": "object", "additionalProperties": {"type": "integer"}},
    "Forwards": {"type": "array", "items": {"$ref": "#/components/schemas/Forward"}},
    "Zones": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/components/schemas/Zone"}}]},
    "ExposeRequest": {
        "type": "object",
        "properties": {
            "local": _NULLABLE_TEXT,
            "remote": _NULLABLE_TEXT,
            "protocol": {
                **_NULLABLE_TEXT,
                "description": "tcp (default), udp, tcp4, tcp6, udp4, udp6, unix or npipe",
            },
            "proxy_protocol": {
                **_NULLABLE_TEXT,
                "description": "v1 or v2: the guest gets a PROXY header first",
            },
        },
    },
    "UnexposeRequest": {
        "type": "object",
        "properties": {"local": _NULLABLE_TEXT, "protocol": _NULLABLE_TEXT},
    },
    "ZoneRequest": {
        "type": "object",
        "properties": {
            "Name": _NULLABLE_TEXT,
            "Records": {
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "properties": {"Name": _NULLABLE_TEXT, "IP": _NULLABLE_TEXT, "Regexp": _NULLABLE_TEXT},
                },
            },
            "DefaultIP": _NULLABLE_TEXT,
        },
    },
}

# path -> (summary, schema of the answer or "" for plain text)
_READS: Final[Mapping[str, tuple[str, str]]] = {
    "/stats": ("Counters in the shape of gVisor's statistics.", "Counters"),
    "/metrics": ("All counters by worker, for Prometheus.", ""),
    "/cam": ("MAC address to number of the guest's link.", "Cam"),
    "/leases": ("IP address to MAC address, gateway and static leases included.", "Leases"),
    "/services/dhcp/leases": ("The same as /leases.", "Leases"),
    "/services/dns/all": ("The zones of the name server; null when there are none.", "Zones"),
    "/services/forwarder/all": ("Open forwards, sorted by local address and protocol.", "Forwards"),
    "/openapi.json": ("This description.", ""),
}
# path -> (summary, schema of the body, statuses of errors)
_WRITES: Final[Mapping[str, tuple[str, str, tuple[int, ...]]]] = {
    "/services/forwarder/expose": ("Open a forward to a guest.", "ExposeRequest", (400, 408, 500)),
    "/services/forwarder/unexpose": (
        "Close a forward; its connections live on.",
        "UnexposeRequest",
        (400, 408, 500),
    ),
    "/services/dns/add": ("Add a zone, or records to the one of that name.", "ZoneRequest", (400, 408)),
}
_ERRORS: Final[Mapping[int, str]] = {
    400: "Not a POST, or the body is no such object.",
    401: "The token is missing or wrong.",
    408: "The body did not come in time.",
    413: "The body is too long.",
    500: "It cannot be done; the text says why.",
}


def document(version: str, *, token: bool) -> Json:
    """The description of an endpoint on the host. token: whether requests need one."""
    paths: dict[str, Json] = {}
    for path, (summary, schema) in _READS.items():
        paths[path] = {"get": _operation(summary, _answer(schema, path), (401,) if token else ())}
    for path, (summary, schema, statuses) in _WRITES.items():
        operation = _operation(summary, _nothing(), (*statuses, 413, *((401,) if token else ())))
        operation["requestBody"] = {
            "required": True,
            "description": "Any Content-Type will do. Names of keys without regard to case.",
            "content": {"application/json": {"schema": _ref(schema)}},
        }
        paths[path] = {"post": operation}
    paths["/tunnel"] = {"post": _tunnel(token)}
    paths["/connect"] = {"post": _connect()}
    described: Json = {
        "openapi": "3.1.0",
        "info": {"title": "gvtap-pipeline", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": dict(SCHEMAS)},
    }
    if token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _operation(summary: str, answer: Json, errors: tuple[int, ...]) -> Json:
    responses: Json = {"200": answer}
    for status in sorted(errors):
        responses[str(status)] = {
            "description": _ERRORS[status],
            "content": {"text/plain": {"schema": _TEXT}},
        }
    return {"summary": summary, "responses": responses}


def _answer(schema: str, path: str) -> Json:
    kind = "application/json" if path == "/openapi.json" else "text/plain"
    if path == "/openapi.json":
        return {"description": "JSON", "content": {kind: {"schema": {"type": "object"}}}}
    if not schema:
        return {"description": "text", "content": {kind: {"schema": _TEXT}}}
    return {"description": "JSON", "content": {kind: {"schema": _TEXT}}, "x-json": _ref(schema)}


def _nothing() -> Json:
    return {"description": "Done; the answer is empty."}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _tunnel(token: bool) -> Json:
    operation = _operation(
        "A connection to a port of a guest. Must be the first request of its connection.",
        {"description": "No HTTP answer: the bytes OK, then what the guest says."},
        (500, 401) if token else (500,),
    )
    operation["parameters"] = [
        {"name": "ip", "in": "query", "required": True, "schema": {"type": "string", "format": "ipv4"}},
        {
            "name": "port",
            "in": "query",
            "required": True,
            "schema": {"type": "integer", "minimum": 0, "maximum": 65535},
        },
    ]
    return operation


def _connect() -> Json:
    operation = _operation(
        "Attach a guest: Ethernet frames behind a 2-byte little-endian length. Only where guests may come.",
        {"description": "No HTTP answer: frames follow in both directions."},
        (),
    )
    operation["responses"]["404"] = {"description": "Guests cannot attach here."}
    operation["security"] = []
    return operation
