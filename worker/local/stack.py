"""A local stack: an embedded redis-server and the workers, as child processes.

``up`` runs it in the foreground. ``run`` runs it as a child (``python -m worker.local.stack``)
that is tied to it by its standard input: when that closes, because ``run`` is done or was
killed, the stack takes down all it started and removes its directory.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import redis

from worker.errors import FatalError
from worker.local.redis_server import redis_server
from worker.queues import STAGES
from worker.settings import Settings, get_settings, socket_broker_url
from worker.signals import die_with_parent, stopping_on_signals
from worker.transport.client import answers
from worker.transport.private_folder import make_private

#: The exit status of a worker that cannot work as it is configured (EX_CONFIG of sysexits.h).
EXIT_MISCONFIGURED = 78
#: A worker that dies more often than this in this time is not started again.
_MOST_RESTARTS = 5
_RESTARTS_SECONDS = 600
_REDIS_SECONDS = 20
_GRACE_SECONDS = 30
_CHECK_SECONDS = 0.1


REDIS = "redis"
FLOWER = "flower"
LIVE_LOADER = "load-live"
DISPATCHER = "dispatcher"
#: All services of a stack that stays up, but for its redis-server.
WHOLE_STACK = (*STAGES, LIVE_LOADER, DISPATCHER)
#: The commands of the services, here and in docker-compose.yml.
COMMANDS: dict[str, list[str]] = {
    **{stage: ["astronn-stream", "worker", stage] for stage in STAGES},
    LIVE_LOADER: ["astronn-stream", "worker", "load", "--lane", "live"],
    DISPATCHER: ["astronn-stream", "dispatcher"],
    FLOWER: [
        "celery",
        "-A",
        "worker.app",
        "flower",
        "--address=127.0.0.1",
        "--port=5555",
        "--read_only=True",  # what is to be done again, the ledger decides
        "--tasks_columns=name,args,state,retries,result,received,runtime,worker",
        "--max_tasks=50000",  # they lie in memory alone
        "--purge_offline_workers=3600",
    ],
}


class LocalStack:
    """Processes that belong together; a context that takes all of them down at its end.

    Parameters
    ----------
    settings
        What the workers are configured with.
    directory
        A private directory for the redis-server's socket and, with ``logs``, the workers'
        logs. It is removed at the end.
    services
        What to start: ``redis`` and names of ``COMMANDS``; ``flower`` listens on
        http://127.0.0.1:5555.
    logs
        Write each worker's output to a file in ``directory`` instead of the terminal.
    grace
        Seconds that workers have to finish what they hold, once they are to stop.
    """

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        *,
        services: Collection[str],
        logs: bool = False,
        grace: float = _GRACE_SECONDS,
    ) -> None:
        self._settings = settings
        self._grace = grace
        self._directory = directory
        self._services = services
        self._logs = logs
        if REDIS in services:
            self._settings = settings.changed(broker_url=socket_broker_url(directory))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._deaths: dict[str, list[float]] = {name: [] for name in services}

    def __enter__(self) -> Self:
        make_private(self._directory)
        try:
            if REDIS in self._services:
                self._start_redis()
            for name in self._services:
                if name != REDIS:
                    self._start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def check(self) -> list[str]:
        """Start again what has died; returns the names of what was.

        Raises
        ------
        FatalError
            A worker is misconfigured or keeps dying, or the redis-server is gone; the text
            says what it said last.
        """
        dead = [name for name, process in self._processes.items() if process.poll() is not None]
        for name in dead:
            status = self._processes.pop(name).returncode
            if name == REDIS or status == EXIT_MISCONFIGURED or self._keeps_dying(name):
                raise FatalError(self._last_words(name, status))
            self._start(name)
        return dead

    def _keeps_dying(self, name: str) -> bool:
        moment = time.monotonic()
        self._deaths[name] = [t for t in self._deaths[name] if moment - t < _RESTARTS_SECONDS]
        self._deaths[name].append(moment)
        return len(self._deaths[name]) > _MOST_RESTARTS

    def stop(self) -> None:
        """Ask the workers to finish what they hold, then stop the redis-server.

        Signals are ignored meanwhile: a second one must not interrupt the cleaning up.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        redis_process = self._processes.pop(REDIS, None)
        _terminate(list(self._processes.values()), self._grace)
        if redis_process is not None:
            _terminate([redis_process], _GRACE_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start_redis(self) -> None:
        socket = self._directory / "redis.sock"
        command = [str(redis_server()), "--port", "0", "--unixsocket", str(socket)]
        command += ["--unixsocketperm", "700", "--dir", str(self._directory), "--save", ""]
        command += ["--appendonly", "no", "--maxmemory-policy", "noeviction"]
        process = self._processes[REDIS] = self._spawn(REDIS, command, quiet=True)
        deadline = time.monotonic() + _REDIS_SECONDS
        client = redis.Redis(unix_socket_path=str(socket))
        while not answers(client):
            if time.monotonic() > deadline or process.poll() is not None:
                raise FatalError(self._last_words(REDIS, process.poll()))
            time.sleep(0.01)
        client.close()

    def _start(self, name: str) -> None:
        executable, *arguments = COMMANDS[name]
        # The scripts beside this Python, whatever the PATH says.
        here = Path(sys.executable).parent / executable
        # Celery's own command runs modules that lie in its current folder, as Flower its settings.
        folder = self._directory if executable == "celery" else None
        self._processes[name] = self._spawn(
            name, [str(here), *arguments], quiet=False, folder=folder
        )

    def _spawn(
        self, name: str, command: list[str], *, quiet: bool, folder: Path | None = None
    ) -> subprocess.Popen[bytes]:
        # What a killed worker leaves in its folder for temporary files goes with ours.
        temporary = {"TMPDIR": str(self._directory)}
        environment = {**os.environ, **self._settings.environment(), **temporary}
        # Each process in a session of its own: Ctrl-C is for the one that looks after them.
        with contextlib.ExitStack() as files:
            output = (
                files.enter_context(self._log(name).open("ab")) if self._logs or quiet else None
            )
            return subprocess.Popen(  # noqa: S603 - our own commands
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _last_words(self, name: str, status: int | None) -> str:
        said = ""
        if self._log(name).exists():
            lines = self._log(name).read_text(errors="replace").strip().splitlines()
            said = "\n".join(lines[-1:] if status == EXIT_MISCONFIGURED else lines[-15:])
        if status == EXIT_MISCONFIGURED and said:
            return said.removeprefix("Error: ")
        return f"The {name} process ended with status {status}." + (f"\n{said}" if said else "")


def _terminate(processes: list[subprocess.Popen[bytes]], grace: float) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            # macOS refuses where of all the group only a dead process is left.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def serve_until_closed(stack: LocalStack, control: TextIO, events: TextIO) -> None:
    """Look after a stack until ``control`` closes, telling ``events`` what happens."""
    with stack:
        _tell(events, "ready")
        while not select.select([control], [], [], _CHECK_SECONDS)[0]:
            for name in stack.check():
                _tell(events, f"restarted {name}")


def _tell(events: TextIO, line: str) -> None:
    # Who started us may be gone already; the closed standard input says so next.
    with contextlib.suppress(BrokenPipeError):
        print(line, file=events, flush=True)


def main() -> None:
    """Serve ``python -m worker.local.stack DIRECTORY SERVICE...``."""
    directory, *services = sys.argv[1:]
    try:
        with stopping_on_signals(), contextlib.suppress(KeyboardInterrupt):
            # Messages in a redis-server of our own end with it; the ledger knows what is open.
            grace = 0 if REDIS in services else _GRACE_SECONDS
            stack = LocalStack(
                get_settings(), Path(directory), services=services, logs=True, grace=grace
            )
            serve_until_closed(stack, sys.stdin, sys.stdout)
    except FatalError as error:
        _tell(sys.stdout, "failed " + str(error).replace("\n", "\t"))
        sys.exit(1)


if __name__ == "__main__":
    main()
