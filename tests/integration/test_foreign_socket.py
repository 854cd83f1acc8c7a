"""A socket that another user laid where ours would be: nobody connects, not even once."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError

from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import Workplace
from worker.app import app
from worker.errors import FatalError
from worker.local.redis_server import redis_server
from worker.settings import PREFIX, Settings, redis_py_url
from worker.stages.process import Process
from worker.transport.client import broker_client
from worker.transport.connection import connect

SOMEBODY_ELSE = 12345
REFUSAL = "is not a private directory of this user"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders away")


class Trap:
    """A socket in the folder of a local stack; whoever connects is remembered."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(folder / "redis.sock"))
        self._server.listen()
        self._server.setblocking(False)

    def caught(self) -> bool:
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "work", {f"{PREFIX}DATABASE_URL": f"sqlite:///{tmp_path}/a.sqlite"})


@pytest.fixture
def settings(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("tempfile.tempdir", str(place.temporary))
    return Settings(database_url=place.environment[f"{PREFIX}DATABASE_URL"])


@pytest.fixture
def trap(settings: Settings) -> Iterator[Trap]:
    trap = Trap(settings.stack_directory)
    yield trap
    trap.close()


def given_away(trap: Trap) -> None:
    os.chown(trap.folder, SOMEBODY_ELSE, -1)


def opened_to_all(trap: Trap) -> None:
    trap.folder.chmod(0o777)


def linked(trap: Trap) -> None:
    trap.folder.rename(trap.folder.with_name("elsewhere"))
    trap.folder.symlink_to("elsewhere")


foreign = pytest.mark.parametrize(
    "spoil", [pytest.param(given_away, marks=needs_root), opened_to_all, linked]
)


@foreign
def test_no_connection_is_made_to_a_foreign_socket(
    settings: Settings, trap: Trap, spoil: Callable[[Trap], None]
) -> None:
    spoil(trap)
    with pytest.raises(FatalError, match=REFUSAL):
        broker_client(settings)
    for client in (Process(settings).client, connect(settings.arrays)):
        with pytest.raises(redis.ConnectionError, match=REFUSAL):
            client.ping()
    with (
        app.connection_for_read(settings.broker) as celerys,
        pytest.raises(OperationalError, match=REFUSAL),
    ):
        celerys.default_channel  # noqa: B018 - connects
    assert not trap.caught()


def test_a_folder_that_changes_hands_later_is_not_entered_again(settings: Settings) -> None:
    folder = settings.stack_directory
    folder.mkdir(mode=0o700)
    command = [redis_server(), "--port", "0", "--unixsocket", folder / "redis.sock", "--save", ""]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        wait_for((folder / "redis.sock").exists, "the socket", 20)
        with app.connection_for_read(settings.broker) as celerys:
            channel = celerys.default_channel
            pools = [connect(redis_py_url(settings.broker)).connection_pool, channel.pool]
            connections = [each.make_connection() for each in (*pools, channel.async_pool)]
            for each in connections:
                each._connect().close()
            folder.chmod(0o777)
            for each in connections:
                with pytest.raises(PermissionError, match=REFUSAL):
                    each._connect()
    finally:
        server.kill()
        server.wait()


def test_sockets_that_the_user_names_are_not_judged(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "redis")
    opened_to_all(trap)
    connection = connect(f"unix://{trap.folder}/redis.sock").connection_pool.make_connection()
    connection._connect().close()
    assert trap.caught()
    trap.close()


@needs_root
@pytest.mark.parametrize(
    ("command", "status"),
    [
        *((("worker", stage), 78) for stage in ("load", "record")),
        (("status",), 1),
        (("dispatcher",), 1),
    ],
)
def test_every_command_refuses_a_foreign_socket(
    place: Workplace, trap: Trap, command: tuple[str, ...], status: int
) -> None:
    place.run("db", "upgrade")
    given_away(trap)
    assert REFUSAL in " ".join(place.run(*command, status=status).split())
    assert not trap.caught()
