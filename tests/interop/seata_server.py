"""A real Seata server 2.0.0 out of published artifacts, with its files in a directory of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from maven import class_path, java
from shop import jdbc_url

from troth.demo.servers.plan import Account
from troth.demo.servers.private import PrivateServer

START_WITHIN_S = 120.0
QUICK_START = ("-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""A JVM for tests: soon there, and small."""
AS_SHIPPED = ("-Xms2048m", "-Xmx2048m", "-Xss640k", "-XX:MaxDirectMemorySize=1024m")
"""The JVM that Seata's own start script asks for; compilers and collector are the JVM's choice."""
_COMMON = "xid VARCHAR(128) NOT NULL, transaction_id BIGINT, gmt_create DATETIME(6), gmt_modified DATETIME(6)"
STORE_TABLES = (
    f"CREATE TABLE global_table ({_COMMON}, status TINYINT NOT NULL, application_id VARCHAR(64),"
    " transaction_service_group VARCHAR(32), transaction_name VARCHAR(128), timeout INT, begin_time BIGINT,"
    " application_data VARCHAR(2000), PRIMARY KEY (xid), KEY (status, gmt_modified), KEY (transaction_id))",
    f"CREATE TABLE branch_table ({_COMMON}, branch_id BIGINT NOT NULL, resource_group_id VARCHAR(32),"
    " resource_id VARCHAR(256), branch_type VARCHAR(8), status TINYINT, client_id VARCHAR(128),"
    " application_data VARCHAR(2000), PRIMARY KEY (branch_id), KEY (xid))",
    "CREATE TABLE lock_table (row_key VARCHAR(256) NOT NULL, xid VARCHAR(128), transaction_id BIGINT,"
    " branch_id BIGINT NOT NULL, resource_id VARCHAR(256), table_name VARCHAR(32), pk VARCHAR(36),"
    " status TINYINT NOT NULL DEFAULT 0, gmt_create DATETIME, gmt_modified DATETIME,"
    " PRIMARY KEY (row_key), KEY (status), KEY (branch_id), KEY (xid))",
    "CREATE TABLE distributed_lock (lock_key CHAR(20) NOT NULL, lock_value VARCHAR(20) NOT NULL, expire BIGINT,"
    " PRIMARY KEY (lock_key))",
    "INSERT INTO distributed_lock VALUES ('AsyncCommitting', ' ', 0), ('RetryCommitting', ' ', 0),"
    " ('RetryRollbacking', ' ', 0), ('TxTimeoutCheck', ' ', 0)",
)
"""What DB mode needs in its MariaDB database."""


def file_store(directory: Path) -> dict[str, str]:
    """Settings of file mode."""
    return {"seata.store.mode": "file", "seata.store.file.dir": str(directory / "store")}


def db_store(url: str, account: Account) -> dict[str, str]:
    """Settings of DB mode, in a database that has STORE_TABLES."""
    return {
        "seata.store.mode": "db",
        "seata.store.db.datasource": "druid",
        "seata.store.db.db-type": "mysql",
        "seata.store.db.driver-class-name": "com.mysql.cj.jdbc.Driver",
        "seata.store.db.url": f"{jdbc_url(url)}?rewriteBatchedStatements=true",
        "seata.store.db.user": account.user,
        "seata.store.db.password": account.password,
        "seata.store.db.min-conn": "2",
        "seata.store.db.max-conn": "20",
        "seata.store.db.global-table": "global_table",
        "seata.store.db.branch-table": "branch_table",
        "seata.store.db.lock-table": "lock_table",
        "seata.store.db.distributed-lock-table": "distributed_lock",
        "seata.store.db.query-limit": "1000",
        "seata.store.db.max-wait": "5000",
    }


def db_store_in(mariadb: PrivateServer, name: str) -> dict[str, str]:
    """Make the database `name` with STORE_TABLES; gives the settings of DB mode in it."""
    url = mariadb.create_database(name)
    mariadb.execute(";\n".join(STORE_TABLES), name)
    return db_store(url, mariadb.account)


class SeataServer:
    """One server process. Everything it writes, its home included, stays in `directory`."""

    def __init__(
        self,
        directory: Path,
        store: dict[str, str],
        *,
        jvm: tuple[str, ...] = QUICK_START,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.directory = directory
        self.log_file = directory / "server.log"
        self.port, console_port = _free_port(), _free_port()
        properties = {
            "user.home": str(directory),
            "server.port": str(console_port),
            "seata.server.service-port": str(self.port),
            "seata.config.type": "file",
            "seata.registry.type": "file",
            **store,
            "seata.store.session.mode": store["seata.store.mode"],
            "seata.store.lock.mode": store["seata.store.mode"],
            **settings,
        }
        command = [java(), *jvm]
        command += [f"-D{name}={value}" for name, value in properties.items()]
        command += ["-cp", class_path("seata-server", "target"), "io.seata.server.ServerApplication"]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-m", store["seata.store.mode"]]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=subprocess.STDOUT)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self.process.poll() is None, f"the Seata server has ended: {self._last_words()}"
                assert time.monotonic() < deadline, f"the Seata server does not serve: {self._last_words()}"
                time.sleep(0.1)
            else:
                return

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _last_words(self) -> str:
        return "\n".join(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
