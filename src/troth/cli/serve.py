"""`troth serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from troth.cli import options
from troth.server.process import run


def serve(
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
    ready_json: Annotated[
        bool, typer.Option("--ready-json", help="Make the start line on standard output one JSON object.")
    ] = False,
) -> None:
    """Run a coordinator until SIGTERM or Ctrl-C.

    Seata clients connect to --port, DTM's to --dtm-http-port and --dtm-grpc-port. The admin door serves /health,
    /metrics and /api. One line on standard output says when every door accepts; logs go to standard error. Where
    another coordinator leads the same store, a line before says that this one stands by; it takes over when the other
    is gone.

    Settings come from, later ones win: defaults, troth.toml (or --config FILE), the environment (TROTH_RETRY__MIN is
    retry.min), options, --set. `troth config` shows them all.

    Exit status: 0 after a stop that was asked for, 1 if it cannot start or go on, 2 for wrong options or settings.
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
    settings = options.settings_or_exit(config_file, assignments, flags, allow_anonymous)
    raise typer.Exit(run(settings, ready_json=ready_json))
