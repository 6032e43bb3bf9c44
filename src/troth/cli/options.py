"""The options that `troth serve` and `troth config` share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from troth.server.sources import ConfigError, Settings, load_settings

Host = Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen at. [127.0.0.1]")]
Advertise = Annotated[
    str | None,
    typer.Option(
        "--advertise",
        metavar="HOST[:PORT]",
        help="Name by which clients reach this coordinator; it is part of every xid. Host at most 38 bytes.",
    ),
]
Port = Annotated[
    str | None,
    typer.Option("--port", metavar="PORT", help="Seata port; 0: any free one; off: no such door. [8091]"),
]
AdminHost = Annotated[
    str | None, typer.Option("--admin-host", metavar="ADDRESS", help="Address of the admin door. [as --host]")
]
AdminPort = Annotated[
    str | None,
    typer.Option("--admin-port", metavar="PORT", help="Admin door (/health /metrics /api); 0 or off as above. [7091]"),
]
DtmHttpPort = Annotated[
    str | None,
    typer.Option(
        "--dtm-http-port", metavar="PORT", help="DTM's HTTP door; 0 or off as above. [36789; off if that is taken]"
    ),
]
DtmGrpcPort = Annotated[
    str | None,
    typer.Option(
        "--dtm-grpc-port",
        metavar="PORT",
        help="DTM's gRPC door (needs troth[grpc]); 0 or off as above. [36790; off if that is taken]",
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="sqlite:///FILE (sqlite:////absolute/FILE), postgresql://USER:PASSWORD@HOST/DATABASE, which several "
        "coordinators may share, or memory://, which a restart empties. [sqlite:///troth.db]",
    ),
]
AllowAnonymous = Annotated[
    bool,
    typer.Option("--allow-anonymous", help="Listen beyond this machine, although whoever reaches it may call."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in TOML. [troth.toml in this directory, if there is one]"),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as retry.min=50ms; may be repeated."),
]


def settings_or_exit(
    config_file: Path | None, assignments: list[str] | None, flags: dict[str, object], allow_anonymous: bool
) -> Settings:
    """The settings in force; what is wrong with them goes to standard error, and the exit status is 2."""
    flags["allow_anonymous"] = True if allow_anonymous else None
    try:
        return load_settings(file=config_file, environment=os.environ, flags=flags, assignments=assignments or ())
    except ConfigError as error:
        for line in str(error).splitlines():
            typer.echo(f"troth: {line}", err=True)
        raise typer.Exit(2) from error
