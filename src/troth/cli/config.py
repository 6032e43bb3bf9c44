"""`troth config`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from troth.cli import options
from troth.cli.tables import table


def config(
    host: options.Host = None,
    advertise: options.Advertise = None,
    port: options.Port = None,
    admin_host: options.AdminHost = None,
    admin_port: options.AdminPort = None,
    dtm_http_port: options.DtmHttpPort = None,
    dtm_grpc_port: options.DtmGrpcPort = None,
    store: options.StoreUrl = None,
    allow_anonymous: options.AllowAnonymous = False,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    as_json: Annotated[
        bool, typer.Option("--json", help='One JSON object: {key: {"value", "source", "description"}}.')
    ] = False,
) -> None:
    """Show every setting that `troth serve` with the same options would use, and where its value came from.

    Durations are written 50ms, 2s, 1m, 10h, 1d; sizes 64000B, 256KiB, 8MiB. Any key goes into troth.toml
    ([retry] min = "50ms"), the environment (TROTH_RETRY__MIN=50ms) or behind --set (retry.min=50ms).
    """
    flags: dict[str, object] = {
        "host": host,
        "advertise": advertise,
        "port": port,
        "admin_host": admin_host,
        "admin_port": admin_port,
        "dtm_http_port": dtm_http_port,
        "dtm_grpc_port": dtm_grpc_port,
        "store": store,
    }
    rows = options.settings_or_exit(config_file, assignments, flags, allow_anonymous).rows()
    if as_json:
        shown = {row.key: {"value": row.value, "source": row.source, "description": row.description} for row in rows}
        typer.echo(json.dumps(shown, indent=2))
        return
    typer.echo(table(("KEY", "VALUE", "FROM", "MEANING"), [(r.key, r.value, r.source, r.description) for r in rows]))
