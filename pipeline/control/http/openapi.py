"""The description of the HTTP API at /openapi.json (OpenAPI 3.1), made from the tables below and models.py.

It says what a client may rely on. Many paths take any method, and the description names the one to use. All
answers but captures are text/plain, also those in JSON, as in gvproxy. ``x-json`` has the schema of an answer
in JSON. OpenAPI has no words for a path that stops speaking HTTP, so the texts of these paths explain it.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pipeline.control.flows.query import FlowQuery
from pipeline.control.http import models

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_TEXT: Final[Json] = {"type": "string"}


def _schemas() -> Json:
    # "serialization" because clients see the names that are written, such as DefaultIP.
    every = [(model, "serialization") for model in (*models.REQUESTS, *models.ANSWERS)]
    _, described = models_json_schema(every, ref_template=_REF)  # type: ignore[arg-type]
    schemas: Json = described["$defs"]
    return schemas


SCHEMAS: Final[Mapping[str, Json]] = _schemas()

# path -> (summary, the answer, None for plain text)
_READS: Final[Mapping[str, tuple[str, type[BaseModel] | None]]] = {
    "/stats": ("Counters in the shape of gVisor's statistics.", models.Counters),
    "/metrics": ("What docs/metrics.md lists, for Prometheus.", None),
    "/healthz": ("The text ok, if every worker answers within two seconds.", None),
    "/status": (
        "Version, uptime, workers, sums of what is open, forwards, drops, refusals.",
        models.Status,
    ),
    "/traffic": ("What each ring between workers has carried, and each guest's link.", models.Traffic),
    "/version": ("Version, Python, and whether the data path is compiled.", models.Version),
    "/cam": ("MAC address to number of the guest's link.", models.Cam),
    "/guests": ("What each guest has of all resources.", models.Guests),
    "/flows": ("Open flows of all guests.", models.Flows),
    "/leases": (
        "IP address to MAC address, gateway and static leases included. "
        "The static lease of a DUID is there while a guest has it.",
        models.Leases,
    ),
    "/services/dhcp/leases": ("The same as /leases.", models.Leases),
    "/services/dns/all": ("The zones of the name server; null when there are none.", models.Zones),
    "/services/forwarder/all": ("Open forwards, sorted by local address and protocol.", models.Forwards),
    "/openapi.json": ("This description.", None),
}
_KINDS: Final = "Kinds of events (docs/events.md), separated by commas; without it all of them."
_CONNECTIONS: Final = "What becomes of open connections that are no longer allowed. By default they are cut."
_CUT_OR_KEEP: Final[Json] = {"type": "string", "enum": ["cut", "keep"]}
_TEXTS: Final[Json] = {"type": "array", "items": {"type": "string"}}
_CAPTURE_PARAMETERS: Final[tuple[tuple[str, str, Json], ...]] = (
    ("guest", "A link's number, a MAC address or an IPv4 address. May be repeated.", _TEXTS),
    ("host", "An address or a network, at either end. May be repeated.", _TEXTS),
    ("port", "A port or a range, at either end. May be repeated.", _TEXTS),
    ("protocol", "arp, icmp, tcp or udp. May be repeated.", _TEXTS),
    ("drops", "1: only the frames that were dropped, with the cause.", {"type": "integer", "enum": [0, 1]}),
    (
        "snaplen",
        "Bytes that are kept of a frame; 0 for all.",
        {"type": "integer", "minimum": 0, "maximum": 262144},
    ),
)
# path -> (summary, the body, statuses of errors)
_WRITES: Final[Mapping[str, tuple[str, type[BaseModel], tuple[int, ...]]]] = {
    "/services/forwarder/expose": (
        "Open a forward to a guest. With port 0 in local the system chooses a port.",
        models.ExposeRequest,
        (400, 408, 500),
    ),
    "/services/forwarder/unexpose": (
        "Close a forward; its connections live on.",
        models.UnexposeRequest,
        (400, 408, 500),
    ),
    "/services/dns/add": ("Add a zone, or records to the one of that name.", models.ZoneRequest, (400, 408)),
}
_READ_ERRORS: Final[Mapping[str, tuple[int, ...]]] = {"/healthz": (503,), "/flows": (400,)}
_ERRORS: Final[Mapping[int, str]] = {
    400: "Not a POST, the body is not such an object, or the query is wrong.",
    403: "A web page may have sent it: see Host, Origin and Sec-Fetch-Site in docs/access.md.",
    404: "There is no such flow, guest, name or approval.",
    401: "The token is missing or wrong.",
    408: "The body did not come in time.",
    409: "The policy has too many rules.",
    412: "It has changed since the client read it.",
    413: "The body is too long.",
    429: "Too many captures are running.",
    500: "It cannot be done; the text says why.",
    503: "A worker does not answer, or too many clients read events; the text says which.",
}


def document(version: str, *, token: bool) -> Json:
    """The description of an endpoint on the host. token: whether requests need one."""
    paths: dict[str, Json] = {}
    for path, (summary, answer) in _READS.items():
        errors = (*_READ_ERRORS.get(path, ()), *((401,) if token else ()))
        paths[path] = {"get": _operation(summary, _answer(answer, path), errors)}
    for path, (summary, body, statuses) in _WRITES.items():
        operation = _operation(summary, _done(path), (*statuses, 413, *((401,) if token else ())))
        operation["requestBody"] = {
            "required": True,
            "description": "Any Content-Type will do. Names of keys without regard to case.",
            "content": {"application/json": {"schema": _ref(body)}},
        }
        paths[path] = {"post": operation}
    paths["/restart"] = {"post": _restart(token)}
    paths["/policy"] = _policy(token)
    paths["/policy/explain"] = {"post": _explain(token)}
    paths["/approvals"] = {"get": _approvals(token)}
    paths["/approvals/{id}"] = {"post": _decide(token)}
    paths["/quotas"] = {"get": _quotas(token)}
    paths["/quotas/reset"] = {"post": _reset_quotas(token)}
    paths["/tunnel"] = {"post": _tunnel(token)}
    paths["/connect"] = {"post": _connect()}
    paths["/capture"] = {"get": _capture(token)}
    paths["/events"] = {"get": _events(token)}
    paths["/flows"]["get"]["parameters"] = _flow_parameters()
    paths["/flows/{id}"] = {"delete": _end_flow(token)}
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


def _restart(token: bool) -> Json:
    summary = (
        "Replace the program by the version that is installed now. Guests stay. The answer comes when "
        "the new version runs, or 500 says why the old one goes on."
    )
    return _operation(summary, _answer(models.Restarted, "/restart"), (400, 500, *((401,) if token else ())))


def _operation(summary: str, answer: Json, errors: tuple[int, ...]) -> Json:
    responses: Json = {"200": answer}
    for status in sorted((*errors, 403)):
        responses[str(status)] = {
            "description": _ERRORS[status],
            "content": {"text/plain": {"schema": _TEXT}},
        }
    return {"summary": summary, "responses": responses}


def _answer(model: type[BaseModel] | None, path: str) -> Json:
    if path == "/openapi.json":
        return {"description": "JSON", "content": {"application/json": {"schema": {"type": "object"}}}}
    content = {"text/plain": {"schema": _TEXT}}
    if model is None:
        return {"description": "text", "content": content}
    return {"description": "JSON", "content": content, "x-json": _ref(model)}


def _done(path: str) -> Json:
    if path != "/services/forwarder/expose":
        return {"description": "Done; the answer is empty."}
    return {
        "description": "Done; the answer is empty. With port 0 it is the open forward, with its port.",
        "content": {"text/plain": {"schema": _TEXT}},
        "x-json": _ref(models.Forward),
    }


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}


def _policy(token: bool) -> Json:
    """Show or change the egress policy. Errors are objects, see the schema Problem."""
    shown = _operation("The egress policy.", _answer(models.Policy, "/policy"), (401,) if token else ())
    paths: Json = {"get": shown}
    for method, summary in (
        ("put", "Replace the egress policy as a whole, in all workers, or not at all."),
        ("patch", "The same for some of its keys: a JSON merge patch (RFC 7396). Lists are replaced."),
    ):
        errors = (400, 408, 412, 413, 500, 503, *((401,) if token else ()))
        operation = _operation(summary, _answer(models.PolicyChanged, "/policy"), errors)
        operation["parameters"] = [
            {"name": "connections", "in": "query", "description": _CONNECTIONS, "schema": _CUT_OR_KEEP},
            {"name": "If-Match", "in": "header", "description": "The ETag of GET.", "schema": _TEXT},
        ]
        operation["requestBody"] = _json_body(_ref(models.Policy) if method == "put" else {"type": "object"})
        paths[method] = _with_problems(operation)
    return paths


def _explain(token: bool) -> Json:
    operation = _operation(
        "Which rule decides about a guest and a destination, and why.",
        _answer(models.Explanation, "/policy/explain"),
        (400, 404, 408, 413, 503, *((401,) if token else ())),
    )
    operation["requestBody"] = _json_body(_ref(models.ExplainRequest))
    return _with_problems(operation)


def _approvals(token: bool) -> Json:
    errors = (503, *((401,) if token else ()))
    summary = "Flows that wait for an approval: a rule with the action ask fits them."
    return _with_problems(_operation(summary, _answer(models.Approvals, "/approvals"), errors))


def _decide(token: bool) -> Json:
    operation = _operation(
        "Answer a question. The answer decides all flows of the guest to this destination that wait.",
        _answer(models.ApprovalGiven, "/approvals/{id}"),
        (400, 404, 408, 409, 413, 503, *((401,) if token else ())),
    )
    operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": _TEXT}]
    operation["requestBody"] = _json_body(_ref(models.ApprovalRequest))
    return _with_problems(operation)


def _quotas(token: bool) -> Json:
    summary = "What guests have used of their quotas, and what is left."
    return _operation(summary, _answer(models.QuotaUses, "/quotas"), (401,) if token else ())


def _reset_quotas(token: bool) -> Json:
    operation = _operation(
        "Let what a guest has used begin at zero, or what all have.",
        _answer(models.QuotaReset, "/quotas/reset"),
        (400, 404, 408, 413, *((401,) if token else ())),
    )
    operation["requestBody"] = _json_body(_ref(models.QuotaResetRequest))
    return _with_problems(operation)


def _json_body(schema: Json) -> Json:
    content = {"application/json": {"schema": schema}}
    return {"required": True, "description": "Any Content-Type will do.", "content": content}


def _with_problems(operation: Json) -> Json:
    """The operation, whose errors are JSON, except those of access."""
    for status, response in operation["responses"].items():
        if status not in ("200", "401", "403"):
            response["x-json"] = _ref(models.Problem)
    return operation


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
        "Attach a guest: Ethernet frames after a 2-byte little-endian length. Only where guests may come.",
        {"description": "No HTTP answer: frames follow in both directions."},
        (),
    )
    operation["responses"]["404"] = {"description": "Guests cannot attach here."}
    operation["security"] = []
    return operation


def _capture(token: bool) -> Json:
    answer = {
        "description": "A pcapng capture, until the connection ends.",
        "content": {"application/x-pcapng": {"schema": {"type": "string", "format": "binary"}}},
    }
    operation = _operation(
        "Frames of guests that fit a filter. Must be the first request of its connection.",
        answer,
        (400, 429, 500, *((401,) if token else ())),
    )
    operation["parameters"] = [
        {"name": name, "in": "query", "description": text, "schema": schema}
        for name, text, schema in _CAPTURE_PARAMETERS
    ]
    return operation


def _events(token: bool) -> Json:
    answer = {
        "description": "Server-sent events, until the connection ends. data is one JSON object.",
        "content": {"text/event-stream": {"schema": _TEXT}},
    }
    operation = _operation(
        "What happens, as it happens: an event for each guest, lease, question and flow.",
        answer,
        (400, 503, *((401,) if token else ())),
    )
    operation["parameters"] = [{"name": "kinds", "in": "query", "description": _KINDS, "schema": _TEXT}]
    return operation


def _flow_parameters() -> list[Json]:
    """The keys of a query for /flows, as its model has them."""
    properties: Json = FlowQuery.model_json_schema()["properties"]
    parameters = []
    for name, schema in properties.items():
        described = {key: value for key, value in schema.items() if key not in ("title", "description")}
        text = schema["description"]
        parameters.append({"name": name, "in": "query", "description": text, "schema": described})
    return parameters


def _end_flow(token: bool) -> Json:
    operation = _operation(
        "End a flow: a TCP connection is reset towards guest and host.",
        {"description": "Done; the answer is empty."},
        (404, *((401,) if token else ())),
    )
    operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": _TEXT}]
    return operation
