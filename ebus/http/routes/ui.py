"""The page at /ui, and the documentation of the API at /docs: for people with a browser.

They are answered without a key and hold no secret: what the page shows it asks of the API, with the
key that whoever reads it has typed in.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ebus.config import Config
from ebus.http.openapi_page import api_page
from ebus.http.openapi_shapes import Json
from ebus.http.problems import nothing_there
from ebus.http.static_files import StaticFile, load_files

FILES = "ui"
"""The directory, and what their paths begin with."""

READING = [HttpMethod.GET, HttpMethod.HEAD]

AnyRequest = Request[Any, Any, Any]


def ui_routes(config: Config, document: Json) -> list[HTTPRouteHandler]:
    """None where the page is switched off. `document` is that of OpenAPI."""
    if not config.enable_ui:
        return []
    files = load_files(FILES)
    docs = StaticFile.of(api_page(document).encode(), ".html")

    @route("/ui", http_method=READING)
    async def read_page(request: AnyRequest) -> ASGIApp:
        return _answer(request, files["index.html"])

    @route("/ui/{file:str}", http_method=READING)
    async def read_file(request: AnyRequest) -> ASGIApp:
        file = files.get(request.path_params["file"])
        if file is None:
            raise nothing_there()
        return _answer(request, file)

    @route("/docs", http_method=READING)
    async def read_docs(request: AnyRequest) -> ASGIApp:
        return _answer(request, docs)

    return [read_page, read_file, read_docs]


def _answer(request: AnyRequest, file: StaticFile) -> ASGIApp:
    return file.answer(", ".join(request.headers.getall("if-none-match", [])) or None)
