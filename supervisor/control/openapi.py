"""The published description of the HTTP API, written by `make docs`:

python -m supervisor.control.openapi schema > docs/api.schema.json     (JSON Schema of each document) python
-m supervisor.control.openapi routes > docs/openapi.json        (OpenAPI 3.1 of each route)

Made from the types in `supervisor.core.views.documents` and the operations below; a test compares them with
the routes that `HTTPApi` registers and with answers of a running daemon. The daemon itself never imports
this.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from supervisor.core.views import documents as docs

Json = dict[str, Any]

_TEXT, _JSON, _HTML, _EVENTS = "text/plain", "application/json", "text/html", "text/event-stream"
_PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VERSION = "1"  # of the API, as in its paths
_ADDITIONS = "Later versions may add keys; a consumer must ignore those that it does not know."


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, or of the path where its name is in the path."""

    name: str
    description: str
    schema: Mapping[str, object]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its media types, and its document or what its text is."""

    description: str
    media_types: tuple[str, ...] = (_TEXT,)
    document: type | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method of one path does. `public`: served over TCP too, otherwise on the control
    socket only.
    """

    method: str
    path: str
    summary: str
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    body: str | None = None
    public: bool = False


_TUNNEL = Parameter(
    "tunnel", "Name of a tunnel.", {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,30}$"}, True
)
_DESTINATION = Parameter(
    "destination",
    "A network as staff address it, as it is (10.77.0.0/24), encoded or with `_`: 10.77.0.0_24.",
    {"type": "string"},
    True,
)
_OF_TUNNEL = Parameter("tunnel", "Of this tunnel only.", {"type": "string"})
_WAIT = Parameter(
    "wait", "Seconds to wait for the outcome, 120 at most.", {"type": "integer", "minimum": 0, "default": 0}
)


def _limit(default: int) -> Parameter:
    schema = {"type": "integer", "minimum": 0, "maximum": 10_000, "default": default}
    return Parameter("limit", "How many rows of each kind.", schema)


def _json(document: type) -> Answer:
    return Answer(inspect.getdoc(document) or "", (_JSON,), document)


_BAD_REQUEST = Answer("A parameter is wrong; the text says which.")
_NO_TUNNEL = Answer("There is no such tunnel.")
_ENDING = Answer("The daemon drains and takes no further orders.")

OPERATIONS = (
    Operation("GET", "/", "The status page.", {200: Answer("The page.", (_HTML,))}, public=True),
    Operation(
        "GET",
        "/metrics",
        "Metrics for Prometheus.",
        {200: Answer("The metrics.", ("text/plain; version=0.0.4", "application/openmetrics-text"))},
        public=True,
    ),
    Operation(
        "GET",
        "/healthz",
        "Liveness: the event loop and the engine work.",
        {200: Answer("`ok`"), 503: Answer("What is stuck.")},
        public=True,
    ),
    Operation(
        "GET",
        "/healthz/carries/{destination}",
        "Whether this member carries a destination, for the health checks of load balancers.",
        {
            200: Answer("`ok`: new flows are welcome."),
            404: Answer("No tunnel has such a destination."),
            503: Answer("Why new flows should go elsewhere."),
        },
        (_DESTINATION,),
        public=True,
    ),
    Operation(
        "GET",
        "/readyz",
        "Readiness: the configuration is loaded and nothing drains; independent of single tunnels.",
        {
            200: Answer("`ok`, then lines that an operator should look at."),
            503: Answer("Why it is not ready."),
        },
        public=True,
    ),
    Operation("GET", "/api/v1/status", "All tunnels now.", {200: _json(docs.StatusDocument)}, public=True),
    Operation(
        "GET",
        "/api/v1/fleet",
        "All members of the fleet.",
        {200: _json(docs.FleetDocument), 404: Answer("This facilitator is no member of a fleet.")},
        public=True,
    ),
    Operation(
        "GET",
        "/api/v1/events",
        "Server-sent events: first a `snapshot`, then a `change` whenever something differs.",
        {
            200: Answer("A stream without end.", (_EVENTS,)),
            503: Answer("All streams are taken; Retry-After says when to try again."),
        },
        (
            Parameter(
                "as", "`html`: the data is pieces of the status page.", {"type": "string", "enum": ["html"]}
            ),
        ),
        public=True,
    ),
    Operation(
        "GET",
        "/api/v1/plan",
        "What the kernel should hold, and how it differs.",
        {200: _json(docs.PlanDocument)},
    ),
    Operation(
        "GET",
        "/api/v1/why",
        "What would become of a packet.",
        {200: _json(docs.WhyDocument), 400: _BAD_REQUEST},
        (
            Parameter(
                "address", "Destination: an IP address, or a name behind a tunnel.", {"type": "string"}, True
            ),
            Parameter("from", "Source, an IP address.", {"type": "string"}),
            Parameter("port", "TCP port.", {"type": "integer", "minimum": 1, "maximum": 65535}),
        ),
    ),
    Operation(
        "GET",
        "/api/v1/history",
        "Sessions, transitions, incidents and availability.",
        {
            200: _json(docs.HistoryDocument),
            400: _BAD_REQUEST,
            404: Answer("Nothing is known of such a tunnel."),
        },
        (_OF_TUNNEL, _limit(50)),
    ),
    Operation(
        "GET",
        "/api/v1/audit",
        "The largest totals of the audit.",
        {200: _json(docs.AuditDocument), 400: _BAD_REQUEST, 404: Answer("No audit is kept.")},
        (_OF_TUNNEL, Parameter("source", "Of this address of staff only.", {"type": "string"}), _limit(20)),
    ),
    Operation("GET", "/api/v1/alerts", "Incidents at each receiver.", {200: _json(docs.AlertsDocument)}),
    Operation(
        "POST",
        "/api/v1/alerts/test",
        "Open and resolve a test incident at each receiver.",
        {200: _json(docs.AlertTestDocument), 404: _NO_TUNNEL},
        (Parameter("tunnel", "Through the routing key of this tunnel.", {"type": "string"}),),
    ),
    Operation(
        "GET",
        "/api/v1/tunnels/{tunnel}/logs",
        "The last lines of the tunnel's client, secrets masked.",
        {200: Answer("One line each."), 400: _BAD_REQUEST, 404: _NO_TUNNEL},
        (
            _TUNNEL,
            Parameter("lines", "How many; 200 are kept.", {"type": "integer", "minimum": 0, "default": 200}),
            Parameter("follow", "If present: keep sending further lines.", {"type": "string"}),
        ),
    ),
    Operation(
        "GET",
        "/api/v1/tunnels/{tunnel}/question",
        "What the remote gateway asks a person.",
        {200: _json(docs.QuestionDocument), 404: _NO_TUNNEL},
        (_TUNNEL,),
    ),
    Operation(
        "POST",
        "/api/v1/tunnels/{tunnel}/answer",
        "Answer that question.",
        {200: _json(docs.TunnelStatus), 400: _BAD_REQUEST, 404: _NO_TUNNEL, 409: Answer("Nothing is asked.")},
        (_TUNNEL, _WAIT),
        body="The answer, one line.",
    ),
    Operation(
        "POST",
        "/api/v1/tunnels/{tunnel}/{verb}",
        "Start, stop or restart a tunnel.",
        {
            200: _json(docs.TunnelStatus),
            400: _BAD_REQUEST,
            404: _NO_TUNNEL,
            409: Answer("A restart would end a good session, and its files cannot start a new one."),
            503: _ENDING,
        },
        (
            _TUNNEL,
            Parameter("verb", "The order.", {"type": "string", "enum": ["start", "stop", "restart"]}, True),
            _WAIT,
            Parameter("drain", "If present: stop once active flows have finished.", {"type": "string"}),
            Parameter(
                "force", "If present: restart even if the tunnel's files cannot be used.", {"type": "string"}
            ),
        ),
    ),
    Operation(
        "POST",
        "/api/v1/reload",
        "Read the configuration again; a wrong one changes nothing.",
        {200: _json(docs.ReloadDocument), 503: _ENDING},
    ),
    Operation(
        "POST",
        "/api/v1/upgrade",
        "Re-execute the daemon with the installed program; the tunnels stay up.",
        {200: _json(docs.UpgradeDocument), 503: _ENDING},
    ),
    Operation(
        "POST",
        "/api/v1/drain",
        "Stop the daemon once active flows have finished.",
        {200: _json(docs.StatusDocument)},
        (Parameter("now", "If present: end at once.", {"type": "string"}),),
    ),
    Operation(
        "POST",
        "/api/v1/fleet/orders/{kind}/{subject}",
        "Give an order to all members of the fleet, or lift it.",
        {
            200: _json(docs.FleetOrderDocument),
            400: _BAD_REQUEST,
            404: Answer("There is no such fleet, member, tunnel or order."),
            502: Answer("The lock engine does not take it."),
        },
        (
            Parameter(
                "kind", "What is ordered.", {"type": "string", "enum": ["stop", "drain", "end-user"]}, True
            ),
            Parameter("subject", "Name of a tunnel or a member, or an address.", {"type": "string"}, True),
            Parameter("why", "For those who read it.", {"type": "string"}),
            Parameter("lift", "If present: the order holds no longer.", {"type": "string"}),
            _WAIT,
        ),
    ),
    Operation(
        "POST",
        "/api/v1/hand-over",
        "End the daemon, and leave its clients and the kernel to the daemon that asks.",
        {200: _json(docs.HandOverDocument), 409: Answer("The daemon has another owner.")},
        body="The owner of the daemon that asks, such as `the Nomad job facilitator (namespace default)`.",
    ),
)
_EVENT_DATA = (docs.StatusEvent, docs.StatusPageEvent)


# --- JSON Schema
# ----------------------------------------------------------------------------------------------------------


def api_schema() -> Json:
    """A JSON Schema with a definition for each document and each part of one. It is valid for every
    document.
    """
    roots = [*dict.fromkeys(_documents())]
    return {
        "$schema": _DIALECT,
        "title": "Documents of the facilitator API",
        "description": _ADDITIONS,
        "anyOf": [{"$ref": f"#/$defs/{root.__name__}"} for root in roots],
        "$defs": _definitions("#/$defs/"),
    }


def _documents() -> Iterator[type]:
    yield from (
        answer.document
        for each in OPERATIONS
        for answer in each.answers.values()
        if answer.document is not None
    )
    yield from _EVENT_DATA


def _definitions(prefix: str) -> Json:
    """By name, each document and what it refers to; `prefix`: of references."""
    found: dict[str, Json] = {}
    waiting = [*_documents()]
    while waiting:
        document = waiting.pop()
        if document.__name__ not in found:
            found[document.__name__] = _object(document, prefix, waiting)
    return dict(sorted(found.items()))


def _object(document: type, prefix: str, waiting: list[type]) -> Json:
    hints, texts = get_type_hints(document, include_extras=True), _descriptions(document.__name__)
    properties = {}
    for key, hint in hints.items():
        of = get_args(hint)[0] if get_origin(hint) is NotRequired else hint
        properties[key] = _schema(of, prefix, waiting) | ({"description": texts[key]} if key in texts else {})
    return {
        "type": "object",
        "description": inspect.getdoc(document) or "",
        "properties": properties,
        "required": [key for key, hint in hints.items() if get_origin(hint) is not NotRequired],
    }


def _schema(hint: Any, prefix: str, waiting: list[type]) -> Json:
    if hint in _PRIMITIVES:
        return {"type": _PRIMITIVES[hint]}
    if is_typeddict(hint):
        waiting.append(hint)
        return {"$ref": f"{prefix}{hint.__name__}"}
    if hasattr(hint, "__metadata__"):
        return _annotated(hint.__metadata__, _schema(hint.__origin__, prefix, waiting))
    arguments = get_args(hint)
    match get_origin(hint):
        case origin if origin is list:
            return {"type": "array", "items": _schema(arguments[0], prefix, waiting)}
        case origin if origin is dict:
            return {"type": "object", "additionalProperties": _schema(arguments[1], prefix, waiting)}
        case origin if origin in (Union, UnionType):
            return {"anyOf": [_schema(each, prefix, waiting) for each in arguments]}
    raise TypeError(f"no JSON Schema for {hint}")


def _annotated(metadata: tuple[object, ...], schema: Json) -> Json:
    for each in metadata:
        match each:
            case docs.Values(texts):
                schema |= {"enum": list(texts)}
            case docs.Format(name):
                schema |= {"format": name}
    return schema


def _descriptions(name: str) -> dict[str, str]:
    """The strings below the keys of a document, also of those that it inherits."""
    tree = ast.parse(inspect.getsource(docs))
    node = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
    found: dict[str, str] = {}
    for base in node.bases:
        inherited = base.id if isinstance(base, ast.Name) else ""
        if any(isinstance(each, ast.ClassDef) and each.name == inherited for each in tree.body):
            found |= _descriptions(inherited)
    for before, after in zip(node.body, node.body[1:], strict=False):
        match before, after:
            case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                found[key] = inspect.cleandoc(text)
    return found


# --- OpenAPI
# ----------------------------------------------------------------------------------------------------------


def openapi() -> Json:
    """The OpenAPI document."""
    paths: dict[str, Json] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "facilitator",
            "version": _VERSION,
            "description": "Operations with the tag `public` are served over TCP (`http.listen`) and on the control "
            "socket, the others on the control socket only (`runtime_dir/control.sock`, HTTP over a Unix socket). "
            f"{_ADDITIONS}",
        },
        "servers": [
            {"url": "http://127.0.0.1:9464", "description": "TCP, read-only"},
            {"url": "http://facilitator", "description": "The control socket; the host name does not matter"},
        ],
        "paths": paths,
        "components": {"schemas": _definitions("#/components/schemas/")},
    }


def _operation(it: Operation) -> Json:
    refused = "http.tls.client_subjects does not list the client." if it.public else "A privilege is missing."
    answers = {**it.answers, 403: Answer(refused)}
    body = {
        "requestBody": {"required": True, "description": it.body, "content": {_TEXT: {"schema": _STRING}}}
    }
    return {
        "summary": it.summary,
        "operationId": _identifier(it),
        "tags": ["public" if it.public else "control"],
        "parameters": [_parameter(each, it.path) for each in it.parameters],
        **(body if it.body is not None else {}),
        "responses": {str(status): _answer(answer) for status, answer in sorted(answers.items())},
    }


_STRING: Json = {"type": "string"}


def _identifier(it: Operation) -> str:
    words = [word.strip("{}") for word in it.path.removeprefix("/api/v1").split("/") if word]
    return "_".join((it.method.lower(), *(words or ["page"])))


def _parameter(it: Parameter, path: str) -> Json:
    where = "path" if f"{{{it.name}}}" in path else "query"
    return {
        "name": it.name,
        "in": where,
        "description": it.description,
        "required": it.required,
        "schema": dict(it.schema),
    }


def _answer(it: Answer) -> Json:
    schema = _STRING if it.document is None else {"$ref": f"#/components/schemas/{it.document.__name__}"}
    content: Json = {media_type: {"schema": schema} for media_type in it.media_types}
    if _EVENTS in content:
        references = [{"$ref": f"#/components/schemas/{each.__name__}"} for each in _EVENT_DATA]
        content[_EVENTS]["x-event-data"] = {"oneOf": references}
    return {"description": it.description, "content": content}


if __name__ == "__main__":
    print(json.dumps({"schema": api_schema, "routes": openapi}[sys.argv[1]](), indent=1, ensure_ascii=False))
