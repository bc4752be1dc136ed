"""The OpenAPI document as a page for people, at `/docs`.

It is plain HTML in the style of the page at `/ui`: all of it is there without a script, which only
looks things up. Whatever stands in the document is text here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape

from ebus.core.limits import MAX_POSITION
from ebus.http.openapi_shapes import Json

PROBLEM = "application/problem+json"

_WORDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "minLength": "characters, at least",
    "maxLength": "characters, at most",
    "minItems": "items, at least",
    "maxItems": "items, at most",
    "pattern": "pattern",
    "format": "format",
    "default": "default",
    "const": "always",
}
"""What is told of a schema beside its type, in this order."""


def api_page(document: Json) -> str:
    """The whole page."""
    groups = _groups(document["paths"])
    about = document["info"]
    sections = [_section(name, operations, document) for name, operations in groups.items()]
    schemas = document["components"]["schemas"]
    return "\n".join(
        [
            _HEAD.format(description=escape(about["description"])),
            _contents(groups),
            '<main id="main">',
            _introduction(about),
            *sections,
            '<section aria-labelledby="schemas"><h2 id="schemas">Schemas</h2>',
            *(_schema_article(name, schemas[name]) for name in sorted(schemas)),
            "</section></main></div></body></html>",
            "",
        ]
    )


_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>API · ebus</title>
<meta name="description" content="{description}">
<link rel="icon" href="/ui/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/ui/style.css">
<script src="/ui/theme.js"></script>
<script type="module" src="/ui/docs.js"></script>
</head>
<body class="docs">
<a class="skip" href="#main">Skip to the content</a>
<header class="bar">
<a class="brand" href="/ui">ebus</a>
<span class="where">API</span>
<label class="grow"><span class="unseen">Find an operation</span>
<input id="find" type="search" placeholder="Find an operation  ( / )" autocomplete="off"></label>
<a class="button" href="/ui">The page</a>
</header>
<p id="found" class="unseen" role="status"></p>
<div class="columns">"""

Operation = tuple[str, str, Json]
"""Method, path, and what the document says."""


def _groups(paths: Json) -> dict[str, list[Operation]]:
    """Operations by the first part of their paths, in the document's order."""
    groups: dict[str, list[Operation]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            if method != "head":  # as GET, without the body
                group = path.split("/")[1].removesuffix(".json")
                groups.setdefault(group, []).append((method, path, operation))
    return groups


def _contents(groups: dict[str, list[Operation]]) -> str:
    parts = ['<nav class="contents" aria-label="Operations">']
    for name, operations in groups.items():
        links = "".join(
            f'<li><a href="#{escape(operation["operationId"])}">{_method(method)}'
            f"<span>{escape(path).replace('/', '/<wbr>')}</span></a></li>"
            for method, path, operation in operations
        )
        parts.append(f"<h2>{escape(name)}</h2><ul>{links}</ul>")
    parts.append('<h2>schemas</h2><ul><li><a href="#schemas">Schemas</a></li></ul></nav>')
    return "".join(parts)


def _introduction(about: Json) -> str:
    return (
        f"<h1>{escape(about['title'])} API</h1>"
        f'<p class="lead">{escape(about["description"])}</p>'
        "<p>Send a key as <code>X-API-Key: KEY</code> or <code>Authorization: Bearer KEY</code>. "
        "The same as a machine reads it: <code>GET /openapi.json</code>, with a key.</p>"
    )


def _section(name: str, operations: Iterable[Operation], document: Json) -> str:
    articles = "".join(_operation(*operation, document) for operation in operations)
    label = f"group-{escape(name)}"
    heading = f'<h2 id="{label}">/{escape(name)}</h2>'
    return f'<section aria-labelledby="{label}">{heading}{articles}</section>'


def _operation(method: str, path: str, operation: Json, document: Json) -> str:
    name = escape(operation["operationId"])
    parts = [
        f'<details class="operation" id="{name}"><summary>{_method(method)}'
        f"<code>{escape(path)}</code> <span>{_prose(operation['summary'])}</span></summary>"
    ]
    if description := operation.get("description"):
        parts.append(f"<p>{_prose(description)}</p>")
    if operation.get("security") == []:
        parts.append("<p>It needs no key.</p>")
    if parameters := operation.get("parameters"):
        parts.append(_parameters(parameters))
    if body := operation.get("requestBody"):
        schema = next(iter(body["content"].values()))["schema"]
        need = "" if body.get("required", True) else ", may be left out"
        parts.append(f"<h3>Body{need}</h3>{_schema(schema)}")
    parts.append(_responses(operation["responses"], document))
    parts.append(f"<h3>Try it</h3><pre><code>{escape(_curl(method, path, operation))}</code></pre>")
    parts.append("</details>")
    return "".join(parts)


def _method(method: str) -> str:
    return f'<span class="method {escape(method)}">{escape(method.upper())}</span>'


def _parameters(parameters: Iterable[Json]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code>{_need(one)}</td>"
        f"<td>{escape(one['in'])}</td>"
        f'<td>{_prose(one.get("description", ""))} <span class="quiet">{_type(one["schema"])}'
        "</span></td></tr>"
        for one in parameters
    )
    return (
        '<h3>Parameters</h3><div class="scroll"><table><thead><tr><th>name</th><th>in</th>'
        f"<th>what</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _need(parameter: Json) -> str:
    return ' <span class="need">required</span>' if parameter.get("required") else ""


def _responses(responses: Json, document: Json) -> str:
    shared = document["components"]["responses"]
    rows = []
    for status, response in responses.items():
        answer = shared[response["$ref"].rsplit("/", 1)[1]] if "$ref" in response else response
        content = answer.get("content", {})
        told = [_prose(answer["description"])]
        types = [media_type for media_type in content if media_type != PROBLEM]
        if types:
            first = content[types[0]]["schema"]
            told.append(f'<span class="quiet">{_type(first)}</span>')
            told.append(f'<span class="quiet">{escape(", ".join(types))}</span>')
        elif PROBLEM in content:
            told.append(f'<span class="quiet">{_type(content[PROBLEM]["schema"])}</span>')
        headers = [name for name in answer.get("headers", {}) if name != "X-Request-Id"]
        if headers:
            told.append(f'<span class="quiet">with {escape(", ".join(headers))}</span>')
        kind = "good" if status < "400" else "bad"
        rows.append(
            f'<tr><td><span class="status {kind}">{status}</span></td>'
            f"<td>{'<br>'.join(told)}</td></tr>"
        )
    return (
        '<h3>Answers</h3><div class="scroll"><table><thead><tr><th>status</th><th>what</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _curl(method: str, path: str, operation: Json) -> str:
    """A command for a shell that does it."""
    needed = [
        f"{one['name']}={one['schema'].get('minimum', 1)}"
        for one in operation.get("parameters", ())
        if one["in"] == "query" and one.get("required")
    ]
    query = f"?{'&'.join(needed)}" if needed else ""
    way = "" if method == "get" else f" -X {method.upper()}"
    key = "" if operation.get("security") == [] else ' \\\n  -H "X-API-Key: $KEY"'
    body = ""
    if "requestBody" in operation:
        body = " \\\n  -H 'Content-Type: application/json' -d @body.json"
    return f'curl -s{way} "$EBUS{path}{query}"{key}{body}'


def _schema_article(name: str, schema: Json) -> str:
    label = f"schema-{escape(name)}"
    return (
        f'<article class="schema"><h3 id="{label}">{escape(name)}</h3>{_schema(schema)}</article>'
    )


def _schema(schema: Json) -> str:
    """What it is, and a table of what is in it."""
    parts = []
    if description := schema.get("description"):
        parts.append(f"<p>{_prose(description)}</p>")
    parts.append(f'<p class="quiet">{_type(schema)}</p>')
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        rows = "".join(
            f"<tr><td><code>{escape(name)}</code>{_need({'required': name in required})}</td>"
            f"<td>{_told(one)}{_inner(one)}</td></tr>"
            for name, one in properties.items()
        )
        parts.append(f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>')
    return "".join(parts)


def _told(schema: Json) -> str:
    told = _prose(schema["description"]) + " " if "description" in schema else ""
    return f'{told}<span class="quiet">{_type(schema)}</span>'


def _inner(schema: Json) -> str:
    """What is in an object that has no name of its own."""
    inner = schema.get("items", schema)
    return _schema({**inner, "description": ""}) if "properties" in inner else ""


def _type(schema: Json) -> str:
    """In a line: `array of Event, items, at most 10000`."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[1])
        return f'<a href="#schema-{name}">{name}</a>'
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(map(_type, schema[several]))
    kinds = schema.get("type", "any JSON")
    kind = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    told = [escape(kind)]
    if "items" in schema:
        told = [f"{escape(kind)} of {_type(schema['items'])}"]
    if "enum" in schema:
        told.append(" or ".join(f"<code>{_json(one)}</code>" for one in schema["enum"]))
    told += [
        f"{word} <code>{_json(schema[key])}</code>"
        for key, word in _WORDS.items()
        if key in schema and schema[key] != MAX_POSITION
    ]
    return ", ".join(told)


def _prose(text: str) -> str:
    """What stands between backticks there is code here."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _json(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return escape(text)
