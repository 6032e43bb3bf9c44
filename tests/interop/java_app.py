"""A JVM with a real Seata client in it, told over its standard input what to do (java/, Main.java)."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any

from maven import class_path, java

NEWEST = "2.6.0"
OLDER = ("2.3.0", "2.2.0")
ANSWER_WITHIN_S = 60.0
QUICK_START = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""A JVM for tests: soon there, and small."""


class JavaError(Exception):
    """What a command threw: the exception and its causes, each with class, message and perhaps code."""

    def __init__(self, chain: list[dict[str, str]]) -> None:
        super().__init__(" <- ".join(f"{each['class']}({each.get('code')}): {each['message']}" for each in chain))
        self.chain = chain

    @property
    def classes(self) -> list[str]:
        return [each["class"] for each in self.chain]

    @property
    def code(self) -> str | None:
        """What the outermost exception tells: of a business method, how its global transaction ended."""
        return self.chain[0].get("code")

    @property
    def xid(self) -> str:
        return self.chain[0]["xid"]


class JavaApp:
    """One JVM. `call` waits for the answer; `post` does not, and with a `thread` of its own runs beside the others."""

    def __init__(
        self,
        coordinator: str,
        log: Path,
        *,
        application: str = "java-shop",
        version: str = NEWEST,
        settings: Mapping[str, str] = MappingProxyType({}),
        jvm: tuple[str, ...] = QUICK_START,
    ) -> None:
        self.log_file = log
        self._ids = itertools.count(1)
        self._pending: dict[int, Future[Any]] = {}
        self._write = threading.Lock()
        properties = {
            "service.default.grouplist": coordinator,
            "transport.rpcTmRequestTimeout": "3000",
            "client.tm.degradeCheck": "false",
            "org.slf4j.simpleLogger.logFile": str(log),
            "org.slf4j.simpleLogger.showDateTime": "true",
            **settings,
        }
        command = [java(), *jvm]
        command += [f"-D{name}={value}" for name, value in properties.items()]
        command += ["-cp", class_path("java", f"target/{version}", f"-Dseata.version={version}")]
        with log.with_suffix(".err").open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, "troth.interop.Main", application, "default_tx_group"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def post(self, op: str, thread: str = "main", **arguments: object) -> Future[Any]:
        """Send a command; the future has its value, or raises JavaError."""
        number = next(self._ids)
        pending: Future[Any] = Future()
        self._pending[number] = pending
        line = json.dumps({"id": number, "op": op, "thread": thread, **arguments}, default=dict) + "\n"
        assert self.process.stdin is not None
        with self._write:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        return pending

    def call(self, op: str, *, within_s: float = ANSWER_WITHIN_S, **arguments: object) -> Any:
        """Send a command and wait for its value."""
        return self.post(op, **arguments).result(within_s)  # type: ignore[arg-type]

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """End of its input, and of the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            pending = self._pending.pop(answer["id"])
            if "error" in answer:
                pending.set_exception(JavaError(answer["error"]))
            else:
                pending.set_result(answer["value"])
        for pending in list(self._pending.values()):
            pending.set_exception(ConnectionError(f"the JVM has ended; its log is {self.log_file}"))
