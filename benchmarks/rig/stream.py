"""A stream of real processes that may be killed, stopped and starved."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from astropy.table import Table
from sqlalchemy import Engine, text

from benchmarks.rig.rows import sorted_rows
from benchmarks.rig.servers import PostgresServer, RedisServer, SqliteFile, short_folder
from benchmarks.rig.waiting import wait_for
from worker.database.session import open_database, upgrade
from worker.local.stack import COMMANDS
from worker.results.read import read_table

WORKERS = ("load", "load-live", "infer", "record", "dispatcher")


def copies(files: Path, folder: Path, spectra: int, per_round: int = 44) -> int:
    """Fill a folder with real files under new names until there are so many spectra.

    Each name gives other dropout masks, so each copy has labels of its own. Returns their number.
    """
    first = folder / "0"
    first.mkdir(parents=True)
    for file in sorted(files.glob("*.fits")):
        shutil.copyfile(file, first / file.name)
    rounds = -(-spectra // per_round)
    for number in range(1, rounds):
        part = folder / str(number)
        part.mkdir()
        for file in first.iterdir():
            os.link(file, part / file.name.replace("2M", f"c{number}x2M"))
    return rounds * per_round


@contextlib.contextmanager
def stream_on_sqlite(environment: dict[str, str], files: Path) -> Iterator[Stream]:
    """A stream in a folder of its own, on SQLite and with a Redis that keeps nothing."""
    with (
        short_folder() as folder,
        Stream(folder, RedisServer(folder), SqliteFile(folder), environment, files) as stream,
    ):
        yield stream


class Stream:
    """The processes of a stream, each started again when it dies, as a supervisor would.

    Parameters
    ----------
    files
        The folder of spectra, which is also the data root.
    """

    def __init__(
        self,
        folder: Path,
        server: RedisServer,
        database: SqliteFile | PostgresServer,
        environment: dict[str, str],
        files: Path,
    ) -> None:
        self.folder = folder
        self.redis = server
        self.database = database
        self.files = files
        self.engine: Engine = open_database(database.url)
        self.environment = {
            **os.environ,
            **environment,
            "ASTRONN_STREAM_BROKER_URL": server.url,
            "ASTRONN_STREAM_DATABASE_URL": database.url,
            "ASTRONN_STREAM_DATA_ROOT": str(files),
            "TMPDIR": str(folder),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        #: With which statuses workers ended that nobody had stopped; each was started again.
        self.ends: list[int] = []

    def __enter__(self) -> Self:
        upgrade(self.engine)
        self.redis.start()
        self.start(*WORKERS)
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._supervisor.join()
        for name in list(self._processes):
            self.kill(name, again=False)
        self.redis.kill()
        self.engine.dispose()
        self.database.close()

    def start(self, *names: str) -> None:
        """Start workers, as docker-compose would."""
        for name in names:
            executable, *arguments = COMMANDS[name]
            with self._lock, self.log(name).open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [str(Path(sys.executable).parent / executable), *arguments],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def log(self, name: str) -> Path:
        """Where a worker writes."""
        return self.folder / f"{name}.log"

    def kill(self, name: str, *, again: bool = True) -> None:
        """Kill -9 of a worker with all its processes."""
        with self._lock:
            process = self._processes.pop(name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if again:
                self.start(name)

    def tell(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker and all its processes."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            os.killpg(self._processes[name].pid, number)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Ask a worker to stop, frozen or not; its exit status. It stays down until started."""
        with self._lock:
            process = self._processes.pop(name)
        process.send_signal(number)
        os.killpg(process.pid, signal.SIGCONT)
        return process.wait(timeout=seconds)

    def start_anew(self, *names: str) -> None:
        """Stop workers and start them with the environment as it is now."""
        for name in names:
            self.stop(name)
            self.start(name)

    def running(self) -> set[str]:
        """The workers that are meant to run."""
        return set(self._processes)

    def _supervise(self) -> None:
        while not self._closed.wait(0.2):
            with self._lock:
                dead = [name for name, each in self._processes.items() if each.poll() is not None]
                self.ends += [self._processes[name].returncode for name in dead]
                self.start(*dead)

    def enqueue(self, *arguments: object, tag: str) -> str:
        """`astronn-stream enqueue`; what it printed."""
        return self.command("enqueue", *arguments, "--tag", tag)

    def command(self, *arguments: object) -> str:
        """A command of `astronn-stream`; what it printed."""
        done = subprocess.run(
            [str(part) for part in (Path(sys.executable).parent / "astronn-stream", *arguments)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def number(self, query: str, **values: object) -> int:
        """A number out of the database."""
        with self.engine.connect() as connection:
            return int(connection.scalar(text(query), values) or 0)

    def done(self, tag: str) -> int:
        """The jobs under a tag that have their row."""
        return self.number("SELECT count(*) FROM job WHERE state = 'done' AND tag = :tag", tag=tag)

    def enqueue_and_send(self, tag: str) -> None:
        """Enqueue all files, and wait until the dispatcher has sent all of them."""
        self.enqueue(self.files, tag=tag)
        waiting = "SELECT count(*) FROM job WHERE state = 'waiting' AND tag = :tag"
        wait_for(lambda: self.number(waiting, tag=tag) == 0, "the dispatcher to send")

    def wait(self, tag: str, count: int, seconds: float = 240) -> None:
        """Wait until so many jobs under a tag are done."""
        wait_for(lambda: self.done(tag) >= count, f"{count} jobs of {tag!r}", seconds)

    def table(self, tag: str) -> Table:
        """The rows under a tag, in the order of their files."""
        return sorted_rows(read_table(self.engine, tag=tag))

    def attempts(self, tag: str) -> int:
        """The most attempts that a job under a tag took."""
        return self.number("SELECT max(attempts) FROM job WHERE tag = :tag", tag=tag)
