"""Compares answers with what docs/openapi.json promises."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

DOCS = Path(__file__).parents[2] / "docs"
_FORMATS = FormatChecker(())


@_FORMATS.checks("date-time")
def _is_moment(text: object) -> bool:
    return isinstance(text, str) and bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text))


def strict(schema: Any) -> Any:
    """The schema without room for keys that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(each) for key, each in schema.items()}
    return {**inner, "additionalProperties": False} if "properties" in schema else inner


class PublishedApi:
    """docs/openapi.json."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = json.loads((DOCS / "openapi.json").read_text())
        self._schemas = strict(self.document["components"])
        self.seen: set[tuple[str, str, int]] = (
            set()
        )  # method, path and status of the answers that were checked

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Method, path and description of each."""
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    def validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        """Of a schema that may refer to the components."""
        return Draft202012Validator({**schema, "components": self._schemas}, format_checker=_FORMATS)

    def document_errors(self, name: str, document: Any) -> list[str]:
        """What is wrong with a document, by the name of its schema."""
        found = self.validator({"$ref": f"#/components/schemas/{name}"}).iter_errors(document)
        return [f"{error.json_path}: {error.message}" for error in found]

    def check(self, method: str, target: str, status: int, media_type: str, body: str) -> None:
        """The answer to a request is one of those that are described."""
        path, operation = self._find(method, target.partition("?")[0])
        assert str(status) in operation["responses"], (
            f"{method} {path} is answered with {status}: {body[:200]}"
        )
        content = operation["responses"][str(status)]["content"]
        known = {name.partition(";")[0] for name in content}
        assert media_type in known, f"{method} {path} {status} is {media_type}"
        if media_type == "application/json":
            found = self.validator(content[media_type]["schema"]).iter_errors(json.loads(body))
            assert [f"{error.json_path}: {error.message}" for error in found] == [], f"{method} {target}"
        self.seen.add((method, path, status))

    def _find(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        """A path without a placeholder goes before one with it, as OpenAPI has it."""
        fitting = [
            (template, operation)
            for each, template, operation in self.operations()
            if each == method and re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", template), path)
        ]
        assert fitting, f"{method} {path} is not described"
        return min(fitting, key=lambda pair: pair[0].count("{"))
