"""Databases for the Java application: their tables, and looking into them from outside."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

from java_app import JavaApp

from troth.demo.servers.private import PrivateServer

_BUSINESS = (
    "CREATE TABLE account (id INT PRIMARY KEY, owner VARCHAR(40), balance INT NOT NULL)",
    "CREATE TABLE pair (a INT, b VARCHAR(20), n INT, PRIMARY KEY (a, b))",
    "CREATE TABLE book (action VARCHAR(20), id INT, amount INT, reserved INT, PRIMARY KEY (action, id))",
    "INSERT INTO account SELECT n, 'owner', 100 FROM ({numbers}) numbers",
    "INSERT INTO pair VALUES (1, 'x', 10), (1, 'y', 20)",
    "INSERT INTO book VALUES ('reserve', 1, 100, 0), ('pay', 1, 100, 0)",
)
_MARIADB = (
    "CREATE TABLE item (id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40))",
    "CREATE TABLE diary (n INT AUTO_INCREMENT PRIMARY KEY, verb VARCHAR(10), action VARCHAR(20), id INT)",
    "CREATE TABLE undo_log (branch_id BIGINT NOT NULL, xid VARCHAR(128) NOT NULL, context VARCHAR(128) NOT NULL,"
    " rollback_info LONGBLOB NOT NULL, log_status INT NOT NULL, log_created DATETIME(6) NOT NULL,"
    " log_modified DATETIME(6) NOT NULL, UNIQUE KEY ux_undo_log (xid, branch_id), KEY ix_log_created (log_created))",
    "CREATE TABLE tcc_fence_log (xid VARCHAR(128) NOT NULL, branch_id BIGINT NOT NULL,"
    " action_name VARCHAR(64) NOT NULL, status TINYINT NOT NULL,"
    " gmt_create DATETIME(3) NOT NULL, gmt_modified DATETIME(3) NOT NULL,"
    " PRIMARY KEY (xid, branch_id), KEY idx_gmt_modified (gmt_modified), KEY idx_status (status))",
)
_POSTGRES = (
    "CREATE TABLE item (id BIGSERIAL PRIMARY KEY, name VARCHAR(40))",
    "CREATE TABLE diary (n SERIAL PRIMARY KEY, verb VARCHAR(10), action VARCHAR(20), id INT)",
    "CREATE TABLE undo_log (id SERIAL PRIMARY KEY, branch_id BIGINT NOT NULL, xid VARCHAR(128) NOT NULL,"
    " context VARCHAR(128) NOT NULL, rollback_info BYTEA NOT NULL, log_status INT NOT NULL,"
    " log_created TIMESTAMP(0) NOT NULL, log_modified TIMESTAMP(0) NOT NULL,"
    " CONSTRAINT ux_undo_log UNIQUE (xid, branch_id))",
    "CREATE TABLE tcc_fence_log (xid VARCHAR(128) NOT NULL, branch_id BIGINT NOT NULL,"
    " action_name VARCHAR(64) NOT NULL, status SMALLINT NOT NULL,"
    " gmt_create TIMESTAMP(3) NOT NULL, gmt_modified TIMESTAMP(3) NOT NULL,"
    " PRIMARY KEY (xid, branch_id))",
)
ACCOUNTS = 40
DEDUCT = "UPDATE account SET balance = balance - ? WHERE id = ?"
FAIL = MappingProxyType({"op": "fail", "message": "the business says no"})


@dataclass(frozen=True, slots=True)
class Shop:
    """One database with the business tables, and the Java application that works on it."""

    server: PrivateServer
    url: str
    java: JavaApp
    name: str
    """What Java calls the database in its commands."""
    resource_id: str

    @property
    def database(self) -> str:
        return urlsplit(self.url).path[1:]

    def read(self, query: str) -> list[list[str]]:
        """What the database says to an outsider."""
        return [line.split("\t") for line in self._execute(query)]

    def number(self, query: str) -> int:
        ((value,),) = self.read(query)
        return int(value)

    def balance(self, account: int) -> int:
        return self.number(f"SELECT balance FROM account WHERE id = {account}")

    def undo_logs(self, xid: str = "%") -> int:
        """How many there are, of one transaction or of all."""
        return self.number(f"SELECT count(*) FROM undo_log WHERE xid LIKE '{xid}'")

    def _execute(self, sql: str) -> list[str]:
        return self.server.execute(sql, self.database).strip("\n").replace("|", "\t").splitlines()


def sql(shop: Shop, *statements: list[object], **more: object) -> dict[str, object]:
    """A step that runs `[text, parameter…]` each, in one local transaction of the shop's database."""
    return {"op": "sql", "db": shop.name, "statements": list(statements), **more}


def run(shop: Shop, xid: str, *statements: list[object], **more: object) -> list[object]:
    """The same in the global transaction `xid`, now."""
    done: list[object] = shop.java.call(xid=xid, **sql(shop, *statements, **more))  # type: ignore[arg-type]
    return done


def open_shop(server: PrivateServer, url: str, java: JavaApp, name: str = "shop") -> Shop:
    """Make the tables, and let Java open the database as `name`."""
    mariadb = server.product.scheme == "mysql"
    numbers = " UNION ALL ".join(f"SELECT {n}{' AS n' if n == 1 else ''}" for n in range(1, ACCOUNTS + 1))
    tables = (*_BUSINESS, *(_MARIADB if mariadb else _POSTGRES))
    server.execute(";\n".join(tables).replace("{numbers}", numbers), urlsplit(url).path[1:])
    return _opened(server, url, java, name)


def reopen(shop: Shop, java: JavaApp) -> Shop:
    """The same database, opened by another application."""
    return _opened(shop.server, shop.url, java, shop.name)


def _opened(server: PrivateServer, url: str, java: JavaApp, name: str) -> Shop:
    account = server.account
    resource_id = java.call("open", db=name, url=jdbc_url(url), user=account.user, password=account.password)
    return Shop(server, url, java, name, resource_id)


def jdbc_url(url: str) -> str:
    """The database as Java names it."""
    parts = urlsplit(url)
    kind = {"mysql": "mysql", "postgresql": "postgresql"}[parts.scheme]
    return f"jdbc:{kind}://{parts.hostname}:{parts.port}{parts.path}"
