"""Where the coordinator listens, and under which address it is known: sockets bound, names chosen."""

from __future__ import annotations

import errno
import os
import socket

from troth.server.config import LONGEST_HOST_BYTES, split_address

_ANY_OUTSIDE = ("192.0.2.1", 9)
"""A documentation address: connecting a UDP socket to it sends nothing, but shows which of our addresses would."""


class AddressError(Exception):
    """An address cannot be had; one sentence for the operator."""


def listen_at(host: str, port: int, door: str) -> socket.socket:
    """A TCP socket bound to `host`:`port` (0: any free port), not listening yet: who cannot serve must not accept.

    Raises AddressError naming the setting to change.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressError(f"{door} = {host!r} is no address of this machine: {error.strerror}") from error
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere this option lets two processes share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise AddressError(_why_not(host, port, door, error)) from error
    return listening


def _why_not(host: str, port: int, door: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} at {host} is taken by another process; stop that one, or choose another with --{door}"
    if error.errno == errno.EACCES:
        return f"port {port} at {host} needs rights that this user has not; choose one above 1023 with --{door}"
    return f"cannot listen at {host}:{port}: {error.strerror or error}"


def port_of(listening: socket.socket) -> int:
    """The port that it was given."""
    port: int = listening.getsockname()[1]
    return port


def join_address(host: str, port: int) -> str:
    """`host:port`; an IPv6 address is put in []."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def advertised(advertise: str | None, host: str, port: int) -> str:
    """The `host:port` by which clients reach us, which begins every xid. Raises AddressError."""
    if advertise is not None:
        name, given = split_address(advertise)
        return join_address(name, given or port)
    name = host
    if host in ("0.0.0.0", "::", "[::]"):
        name = _own_address()
    if len(name.encode()) > LONGEST_HOST_BYTES:
        raise AddressError(
            f"host {name!r} is longer than {LONGEST_HOST_BYTES} bytes: give a shorter one by --advertise"
        )
    return join_address(name, port)


def _own_address() -> str:
    """The address by which this machine reaches others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ANY_OUTSIDE)
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address
