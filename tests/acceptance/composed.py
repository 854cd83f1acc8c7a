"""The services of docker-compose.yml as processes of this machine.

Each runs its own command with its own environment and nothing else, as in its container. What a
container would have is put in its place: folders that are mounted, host names, ports.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import redis
from sqlalchemy import create_engine, make_url, text

from benchmarks.rig.servers import PostgresServer
from benchmarks.rig.waiting import wait_for
from tests.compose import LEFT_OUT, ROOT, SERVICES, TEXT, filled, seconds, variables
from worker.local.redis_server import redis_server

PASSWORDS = {
    name: f"of0{name.lower().removesuffix('_password').replace('_', '0')}"
    for name in sorted(variables(TEXT))
    if name.endswith("_PASSWORD")
}

#: ``redis-cli -p PORT ping``, which tells an error too.
_REDIS_CLI = """
import os, sys, redis
from redis.backoff import NoBackoff
from redis.retry import Retry
client = redis.Redis(
    port=int(sys.argv[2]), password=os.environ["REDISCLI_AUTH"], retry=Retry(NoBackoff(), 0)
)
try:
    client.ping()
    print("PONG")
except redis.RedisError as error:
    print(error)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Composed:
    """Services that are started in the order of their dependencies, and stopped in reverse.

    Parameters
    ----------
    folder
        A short path; ``data`` and ``model`` in it take the places of the folders of the host.
    given
        What .env says beside the passwords.
    """

    def __init__(self, folder: Path, **given: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.model = folder / "model"
        self.flower_port, self._metrics_port = free_port(), free_port()
        self._ports = {"redis": free_port(), "arrays": free_port()}
        self._services = filled(SERVICES, {**PASSWORDS, **given})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started = {"postgres"}  # its command is that of its image
        self._ready: set[str] = set()
        for mounted in (self.data, self.model):
            mounted.mkdir()
        self._postgres = PostgresServer(folder)
        self._path = self._make_path()
        self._absent = self._hide_modules()
        self._make_database()

    def _make_database(self) -> None:
        """What the image of PostgreSQL does when its volume is new."""
        server = make_url(self._postgres.url).set(drivername="postgresql+psycopg")
        password = PASSWORDS["POSTGRES_PASSWORD"]
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE ROLE astronn LOGIN PASSWORD '{password}'"))
            connection.execute(text("CREATE DATABASE astronn OWNER astronn"))
        engine.dispose()
        self._socket = str(server.query["host"])
        self.engine = create_engine(server.set(database="astronn"))

    def _make_path(self) -> str:
        """Where commands are looked for."""
        own = self.folder / "programs"
        own.mkdir()
        (own / "redis-server").symlink_to(redis_server())
        client = own / "redis-cli"  # the server's wheel has none
        client.write_text(f"#!{sys.executable}\n{_REDIS_CLI}")
        client.chmod(0o755)
        programs = [own, Path(sys.executable).parent, self._postgres.programs]
        return os.pathsep.join([*map(str, programs), "/usr/bin", "/bin"])

    def _hide_modules(self) -> Path:
        """A folder on whose account Python does not find what the image `stage` lacks."""
        folder = self.folder / "absent"
        folder.mkdir()
        hiding = f"import sys\nsys.modules.update(dict.fromkeys({sorted(LEFT_OUT)}))\n"
        (folder / "sitecustomize.py").write_text(hiding)
        return folder

    def _here(self, name: str, value: str) -> str:
        """A part of a command or of an environment with this machine's places in it."""
        places = {
            "@redis:6379": f"@127.0.0.1:{self._ports['redis']}",
            "@arrays:6379": f"@127.0.0.1:{self._ports['arrays']}",
            "@postgres/astronn": f"@/astronn?host={self._socket}",
            "redis-cli ping": f"redis-cli -p {self._ports.get(name)} ping",
            "/farm": str(ROOT / "docs" / "farm"),
            "/data": str(self.data),
            "/model": str(self.model),
            "/tmp": str(self._temporary(name)),  # noqa: S108 - the container's own
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - what it is replaced by counts
            "//flower:5555": f"//127.0.0.1:{self.flower_port}",
            "5555": str(self.flower_port),
            "9540": str(self._metrics_port),
        }
        if name == "postgres":
            places["127.0.0.1"] = self._socket
        pattern = "|".join(map(re.escape, places))
        return re.sub(pattern, lambda found: places[found[0]], value)

    def _temporary(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def environment(self, name: str) -> dict[str, str]:
        """All that a service's processes have in their environment."""
        own = self._services[name].get("environment", {})
        temporary = str(self._temporary(name))
        around = {"PATH": self._path, "HOME": temporary, "TMPDIR": temporary}
        target = self._services[name].get("build", {}).get("target")
        if target == "stage":
            around["PYTHONPATH"] = str(self._absent)
        if target == "infer":  # its volume of compiled kernels
            around["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        return around | {key: self._here(name, value) for key, value in own.items()}

    def up(self, *names: str) -> None:
        """Start services, each after what it depends on."""
        for name in names:
            for other, wait in self._services[name].get("depends_on", {}).items():
                self.up(other)
                self._await(other, wait["condition"])
            if name not in self._started:
                self._started.add(name)
                self._start(name)

    def _await(self, name: str, condition: str) -> None:
        if name not in self._ready:
            if condition == "service_completed_successfully":
                assert self._processes.pop(name).wait(timeout=60) == 0, self.log(name)
            else:
                wait_for(lambda: self.check(name) == 0, f"{name} to be healthy")
            self._ready.add(name)

    def _start(self, name: str) -> None:
        command = [self._here(name, part) for part in self._services[name]["command"]]
        if name in self._ports:
            command += ["--port", str(self._ports[name]), "--bind", "127.0.0.1"]
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=self.environment(name),
                cwd=self._temporary(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def running(self) -> set[str]:
        return {name for name, process in self._processes.items() if process.poll() is None}

    def processes(self) -> list[psutil.Process]:
        """All processes of the services."""
        mains = [psutil.Process(process.pid) for process in self._processes.values()]
        return [*mains, *(child for main in mains for child in main.children(recursive=True))]

    def check(self, name: str, *, patience: int = 20) -> int:
        """The exit status of a service's own health check, while it may wait so many seconds."""
        kind, *test = self._services[name]["healthcheck"]["test"]
        command = test if kind == "CMD" else ["sh", "-c", *test]
        command = [self._here(name, part).replace("-t 20", f"-t {patience}") for part in command]
        limit = seconds(self._services[name]["healthcheck"]["timeout"])
        return self._run(name, command, limit).returncode

    def execute(self, name: str, *command: str) -> str:
        """`docker compose exec`: run a command as a service would; what it printed."""
        done = self._run(name, [self._here(name, part) for part in command], 60)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _run(self, name: str, command: list[str], limit: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment(name),
            cwd=self._temporary(name),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )

    def stop(self, *names: str) -> dict[str, int]:
        """SIGTERM to services; their exit statuses, each of which has to come within its grace."""
        asked = time.monotonic()
        stopping = {name: self._processes.pop(name) for name in names}
        for process in stopping.values():
            process.terminate()
        return {
            name: process.wait(timeout=asked + self._grace(name) - time.monotonic())
            for name, process in stopping.items()
        }

    def _grace(self, name: str) -> float:
        return seconds(self._services[name]["stop_grace_period"])

    def admin(self, server: str) -> redis.Redis:
        """A client of a Redis that may do everything."""
        return redis.Redis(port=self._ports[server], password=PASSWORDS["REDIS_PASSWORD"])

    def number(self, query: str) -> int:
        """A number out of the database."""
        with self.engine.connect() as connection:
            return int(connection.scalar(text(query)) or 0)

    def close(self) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.engine.dispose()
        self._postgres.close()
