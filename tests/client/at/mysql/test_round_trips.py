"""How often a statement under AT goes to the server and back: counted by a relay on the wire."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

import troth.at
from troth.client.context import join

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:77"


class Relay:
    """Passes bytes between clients and the server; `trips` counts how often the first client has spoken after it."""

    def __init__(self, host: str, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._server = (host, port)
        self.trips = 0
        self._server_spoke = False
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        counted = True
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed: the test is over
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                thread = threading.Thread(target=self._pass, args=(source, target, source is client, counted))
                self._threads.append(thread)
                thread.start()
            counted = False

    def _pass(self, source: socket.socket, target: socket.socket, is_client: bool, counted: bool) -> None:
        try:
            with suppress(OSError):  # the other side has closed: the test is over
                while data := source.recv(65536):
                    if counted:
                        self.trips += is_client and self._server_spoke
                        self._server_spoke = not is_client
                    target.sendall(data)
        finally:
            for one in (source, target):
                with suppress(OSError):  # closed already
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):  # closed already; without it a thread in accept() or recv() would sleep on
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def relayed(database) -> Iterator[tuple[object, Relay]]:
    relay = Relay(database.place.host, database.place.port)
    url = database.url.replace(f":{database.place.port}/", f":{relay.port}/")
    connection = troth.at.connect(url, client=database.coordinator, autocommit=True)
    yield connection, relay
    connection.close()
    relay.close()


def trips_of(relay: Relay, connection, sql: str, parameters=None) -> int:
    before = relay.trips
    connection.cursor().execute(sql, parameters)
    return relay.trips - before


STATEMENTS = [
    ("UPDATE account SET balance = %s WHERE id = 1", 3),
    ("UPDATE account SET balance = balance + %s", 3),
    ("DELETE FROM pair WHERE a = %s", 3),
    ("INSERT INTO account (balance) VALUES (%s)", 2),
    ("INSERT INTO account (id, balance) VALUES (NULL, %s)", 2),
    ("INSERT INTO pair VALUES (%s, 'new', 1)", 2),
    ("INSERT INTO pair VALUES (%s, 'x', 1) ON DUPLICATE KEY UPDATE v = v + 1", 4),
    ("REPLACE INTO pair VALUES (%s, 'x', 1)", 3),
]


@pytest.mark.parametrize(("sql", "trips"), STATEMENTS)
def test_autocommit(relayed, database, sql, trips):
    connection, relay = relayed
    with join(XID):
        connection.cursor().execute(sql, (2,))  # reads the catalogue
        assert trips_of(relay, connection, sql, (3,)) == trips
    database.coordinator.rollback(XID)


def test_a_local_transaction(relayed, database):
    connection, relay = relayed
    sql = "UPDATE account SET balance = %s WHERE id = %s"
    connection.cursor().execute("SET autocommit = 0")
    with join(XID):
        for _ in range(2):  # the first time, the catalogue is read
            before = relay.trips
            connection.begin()
            for number in (1, 2, 3):
                connection.cursor().execute(sql, (number, number))
            connection.commit()
            seen = relay.trips - before
        assert seen == 1 + 3 * 2 + 1, "BEGIN, two for each statement, undo row and COMMIT"
    database.coordinator.rollback(XID)


def test_outside_of_a_global_transaction_a_statement_is_one(relayed):
    connection, relay = relayed
    assert trips_of(relay, connection, "UPDATE account SET balance = 1 WHERE id = 1") == 1
