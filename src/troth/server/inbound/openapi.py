"""The admin door's OpenAPI 3.1 document, made from the very types that it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from troth.server.inbound import admin_images
from troth.server.inbound import admin_views as views

Schema = dict[str, object]

_SHAPES = (
    views.TransactionView,
    views.PageView,
    views.ErrorView,
    views.HealthView,
    views.RetryView,
    views.SettingView,
    admin_images.ImagesView,
    admin_images.ResolveBody,
    admin_images.ResolvedView,
    admin_images.AuditView,
)


def openapi_document(version: str) -> Schema:
    """The document as plain JSON data."""
    _, components = msgspec.json.schema_components(_SHAPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "troth coordinator", "version": version, "description": "State of global transactions."},
        "paths": _paths(),
        "components": {"schemas": components},
    }


def _paths() -> Schema:
    xid = {"name": "xid", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/health": {
            "get": _operation("health", "Does every door accept?", "HealthView", refusals={"503": "HealthView"})
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Prometheus text format",
                "responses": {
                    "200": {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}},
                },
            }
        },
        "/api/transactions": {
            "get": _operation(
                "listTransactions",
                "Transactions, newest first; those that have not ended come first",
                "PageView",
                parameters=_list_parameters(),
                refusals={"400": "ErrorView", "503": "ErrorView"},
            )
        },
        "/api/transactions/{xid}": {
            "get": _operation(
                "getTransaction", "One transaction", "TransactionView", parameters=[xid], refusals=_UNKNOWN
            )
        },
        "/api/transactions/{xid}/retry": {
            "post": _operation(
                "retryTransaction",
                "Ask its branches again now, frozen ones too",
                "RetryView",
                parameters=[xid],
                refusals={**_UNKNOWN, "403": "ErrorView", "409": "ErrorView", "415": "ErrorView"},
            )
        },
        **_image_paths(xid),
        "/api/config": {"get": _config_operation()},
    }


def _image_paths(xid: Schema) -> Schema:
    branch: Schema = {"name": "branch_id", "in": "path", "required": True, "schema": {"type": "integer"}}
    resolve = _operation(
        "resolveBranch",
        "End a frozen AT branch as an operator decides; it may be sent again",
        "ResolvedView",
        parameters=[xid, branch],
        refusals={
            **_UNKNOWN,
            **dict.fromkeys(("400", "403", "409", "413", "415"), "ErrorView"),
        },
    )
    schema = {"$ref": "#/components/schemas/ResolveBody"}
    resolve["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    limit: Schema = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}}
    of_xid: Schema = {"name": "xid", "in": "query", "schema": {"type": "string"}}
    return {
        "/api/transactions/{xid}/images": {
            "get": _operation(
                "getImages",
                "Before, after and now of every row of its AT branches, as their resource managers see them",
                "ImagesView",
                parameters=[xid],
                refusals=_UNKNOWN,
            )
        },
        "/api/transactions/{xid}/branches/{branch_id}/resolve": {"post": resolve},
        "/api/audit": {
            "get": _operation(
                "listDecisions",
                "What operators have decided, newest first",
                "AuditView",
                parameters=[of_xid, limit],
                refusals={"400": "ErrorView", "503": "ErrorView"},
            )
        },
    }


_UNKNOWN = MappingProxyType({"404": "ErrorView", "503": "ErrorView"})


def _list_parameters() -> list[Schema]:
    return [
        {
            "name": "status",
            "in": "query",
            "description": "open, ended, or one of Seata's names such as Begin or Committed",
            "schema": {"type": "string"},
        },
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        },
        {"name": "cursor", "in": "query", "description": "from the page before", "schema": {"type": "string"}},
    ]


def _config_operation() -> Schema:
    operation = _operation("getConfig", "Every setting in force, and where it came from", "SettingView")
    schema = {"type": "array", "items": {"$ref": "#/components/schemas/SettingView"}}
    operation["responses"] = {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}}
    return operation


def _operation(
    name: str,
    summary: str,
    shape: str,
    *,
    parameters: list[Schema] | None = None,
    refusals: Mapping[str, str] | None = None,
) -> Schema:
    responses = {"200": _response("OK", shape)}
    for code, refusal in (refusals or {}).items():
        responses[code] = _response(_REASONS[code], refusal)
    operation: Schema = {"operationId": name, "summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    return operation


_REASONS = MappingProxyType(
    {
        "400": "A parameter is wrong",
        "403": "It comes from a page of another site",
        "404": "No such transaction",
        "409": "The transaction is not in phase two, or not as it must be for this",
        "413": "The body is too long",
        "415": "The body is not JSON",
        "503": "Not serving",
    }
)


def _response(description: str, shape: str) -> Schema:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape}"}}},
    }
