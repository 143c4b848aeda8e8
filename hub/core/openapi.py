"""The published description of the session service's API, written by `make docs`:

python -m hub.core.openapi > docs/hub.openapi.json     (OpenAPI 3.1)

Made from `hub.core.routes` and the documents they name; the service itself never imports this.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import TypeAdapter

from hub.core import api
from hub.core.routes import ROUTES, ApiRoute, Role

_REFERENCES = "#/components/schemas/{model}"
_STATUSES = {
    "400": "The request is wrong.",
    "403": "The certificate has not this role.",
    "503": "The database does not answer.",
}
_ROLES = {
    Role.SIDECAR: "sidecars; each for its own node",
    Role.FACILITATOR: "facilitators",
    Role.ADMIN: "operators",
}


def description() -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    _schema(api.ApiRefusal, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "facilitator-hub sessions",
            "version": "1",
            "description": "Mutual TLS; what a client may do is decided by the subject of its certificate. Moments are "
            "Unix time in seconds. Later versions may add keys; a reader must ignore those that it does not know.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"certificate": {"type": "mutualTLS"}},
        },
        "security": [{"certificate": []}],
    }


def _operation(route: ApiRoute, schemas: dict[str, Any]) -> dict[str, Any]:
    refusal = {"application/json": {"schema": {"$ref": _REFERENCES.format(model="ApiRefusal")}}}
    done: dict[str, Any] = {"description": "Done."}
    if route.answer is not None:
        done["content"] = {"application/json": {"schema": _schema(route.answer, schemas)}}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", route.path.removeprefix("/api/v1/")),
        "summary": route.summary,
        "description": f"For {_ROLES[route.role]}.",
        "responses": {
            "204" if route.answer is None else "200": done,
            **{status: {"description": text, "content": refusal} for status, text in _STATUSES.items()},
        },
    }
    if route.body is not None:
        content = {"application/json": {"schema": _schema(route.body, schemas)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.query:
        operation["parameters"] = [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in route.query
        ]
    return operation


def _schema(document: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the document's schema; it and those that it names go to `schemas`."""
    made = TypeAdapter(document).json_schema(ref_template=_REFERENCES)
    schemas.update(made.pop("$defs", {}))
    if "title" not in made:  # a choice between documents
        return made
    schemas[made["title"]] = made
    return {"$ref": _REFERENCES.format(model=made["title"])}


if __name__ == "__main__":
    print(json.dumps(description(), indent=2))
