"""Passwords and TLS on the way to Redis, and what must not get there."""

from __future__ import annotations

import base64
import json
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import redis
import trustme
from kombu import Connection
from kombu.exceptions import OperationalError

from benchmarks.rig.servers import free_port
from benchmarks.rig.waiting import wait_for
from tests.acceptance.command import Workplace
from tests.inputs.apstar_files import write_apstar
from tests.integration.secured_redis import secured_redis, tls_before
from worker.errors import FatalError, TransientError
from worker.settings import PREFIX, Settings, get_settings
from worker.spectra.pixels import N_PIXELS
from worker.transport.arrays import ArrayStore
from worker.transport.client import broker_answers, broker_client

#: What no log, no message and no answer may show, quoted or not.
SECRET = "s3cret"  # noqa: S105
USER = "broker-user"
PASSWORD = f"{SECRET} p@ss/w:r%d?#+"
QUOTED = quote(PASSWORD, safe="")


class Redis:
    """A redis-server with a password: its ports, and the certificates of TLS."""

    def __init__(self, port: int, tls_port: int, ca: Path, other_ca: Path) -> None:
        self.names = {"port": port, "tls": tls_port, "ca": ca, "other": other_ca}
        self.client = redis.Redis(port=port, password=PASSWORD)

    def url(self, form: str) -> str:
        return form.format(**self.names, p=QUOTED, u=USER)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    folder = tmp_path_factory.mktemp("redis")
    files = {name: folder / f"{name}.pem" for name in ("ca", "other")}
    authority = trustme.CA()
    for path, each in zip(files.values(), (authority, trustme.CA()), strict=True):
        each.cert_pem.write_to_path(str(path))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with (
        secured_redis(folder, USER, PASSWORD) as port,
        tls_before(port, context) as tls_port,
    ):
        server = Redis(port, tls_port, files["ca"], files["other"])
        yield server
        server.client.close()


@pytest.fixture
def server(shared_server: Redis) -> Redis:
    shared_server.client.flushall()
    return shared_server


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "work")


def program(place: Workplace, text: str) -> str:
    """The output of a Python program, checked for its exit status."""
    command = [sys.executable, "-W", "ignore", "-c", text]
    environment = place.full_environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- Passwords and TLS ---------------------------------------------------------------------

VERIFIED = "?ssl_cert_reqs=required&ssl_ca_certs={ca}"
FLUX = np.ones((1, N_PIXELS), dtype=np.float32)


@pytest.mark.parametrize(
    "form",
    [
        "redis://:{p}@localhost:{port}/0",
        "redis://{u}:{p}@127.0.0.1:{port}",
        "rediss://{u}:{p}@localhost:{tls}/0" + VERIFIED,
        "rediss://:{p}@localhost:{tls}?ssl_ca_certs={ca}&ssl_cert_reqs=CERT_REQUIRED",
        "rediss://:{p}@localhost:{tls}/",  # with the authorities of the system
        "rediss://:{p}@127.0.0.1:{tls}/0?ssl_cert_reqs=none",
    ],
)
def test_celery_and_redis_py_get_in_with_one_url(
    server: Redis, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "" if "?" in form else str(server.names["ca"]))
    settings = Settings(broker_url=server.url(form))
    with Connection(settings.broker) as celery:
        celery.SimpleQueue("record").put({})
    assert server.client.llen("record") == 1
    assert broker_answers(settings)
    ArrayStore(settings.arrays, 60).put("flux", FLUX)
    assert server.client.exists("flux") == 0
    assert np.array_equal(ArrayStore(settings.arrays, 60).get("flux", 1), FLUX)


#: Every way in which a process of the stream talks to Redis.
TALK = """
import json
import numpy as np
from worker.app import publish
from worker.stages.process import this_process
from worker.messages import NoResult
from worker.settings import get_settings
from worker.monitoring.status import read_status
publish(NoResult(weights="w", failures=()))
this_process().arrays.put("flux", np.ones((1, 7514), dtype=np.float32))
print(json.dumps(read_status(get_settings()).queues))
"""


def test_a_process_gets_in_everywhere(server: Redis, place: Workplace) -> None:
    arrays = "redis://{u}:{p}@localhost:{port}/3"
    place.environment |= {
        PREFIX + "BROKER_URL": server.url("rediss://:{p}@localhost:{tls}/0" + VERIFIED),
        PREFIX + "ARRAYS_URL": server.url(arrays),
    }
    queues = json.loads(program(place, TALK))
    assert queues["record"] == server.client.llen("record") == 1
    with redis.Redis.from_url(server.url(arrays)) as client:
        assert client.strlen("flux") == FLUX.nbytes


REFUSED = {
    "wrong password": ("redis://:{p}x@localhost:{port}/0", "invalid username-password"),
    "wrong user": ("redis://somebody:{p}@localhost:{port}/0", "invalid username-password"),
    "no password": ("redis://localhost:{port}/0", "uthenticat"),
    "wrong authority": ("rediss://:{p}@localhost:{tls}/0?ssl_ca_certs={other}", "issuer"),
    "unknown authority": ("rediss://:{p}@localhost:{tls}/0", "issuer"),
    "other host": ("rediss://:{p}@127.0.0.1:{tls}/0?ssl_ca_certs={ca}", "127.0.0.1"),
    "no authority": ("rediss://:{p}@localhost:{tls}/0?ssl_ca_certs={ca}x", "No such file"),
}


@pytest.mark.parametrize(("form", "reason"), REFUSED.values(), ids=REFUSED)
def test_who_is_not_let_in_or_trusts_nobody_is_told_so(
    server: Redis, form: str, reason: str
) -> None:
    settings = Settings(broker_url=server.url(form))
    with pytest.raises(FatalError, match=f"{reason}.*ASTRONN_STREAM_BROKER_URL") as by_us:
        broker_client(settings)
    with Connection(settings.broker) as celery, pytest.raises(OperationalError) as by_celery:
        celery.ensure_connection(max_retries=1, interval_start=0)
    with pytest.raises(TransientError, match=reason) as by_the_store:
        ArrayStore(settings.arrays, 60).put("flux", FLUX)
    assert reason in str(by_celery.value)
    for caught in (by_us, by_celery, by_the_store):
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("refusal", ["wrong password", "wrong authority"])
def test_a_command_says_in_one_sentence_that_redis_refuses_us(
    server: Redis, place: Workplace, refusal: str
) -> None:
    place.environment |= {
        PREFIX + "BROKER_URL": server.url(REFUSED[refusal][0]),
        PREFIX + "MODEL": str(write_apstar(place.folder / "star.fits").path),  # a file
    }
    told = place.run("status", status=1)
    assert told.startswith("Error: ")
    assert len(told.strip().splitlines()) == 1
    enqueued = place.run("enqueue", "star.fits")  # it needs the database alone
    for each in (told, enqueued):
        assert REFUSED[refusal][1] in each
        assert SECRET not in each


# --- URLs, without a server ----------------------------------------------------------------

UNUSABLE = {
    "no scheme": ("localhost:6379", "looks like redis://"),
    "another broker": (f"amqp://u:{SECRET}@host", "as RabbitMQ, the dispatcher could not see"),
    "another broker with TLS": (f"amqps://u:{SECRET}@host:5671//", "it has to be a Redis server"),
    "password with /": (f"redis://:p/{SECRET}@host:6379/0", "%2F"),
    "port and password with /": (f"redis://:1/{SECRET}@host/0", "%2F"),
    "password with #": (f"redis://:p#{SECRET}@host/0", "%23"),
    "password with ?": (f"redis://:1?{SECRET}@host/0", "rediss://"),
    "password with [": (f"redis://:[{SECRET}@host/0", "looks like redis://"),
    "port": (f"redis://:{SECRET}@host:66666/0", "looks like redis://"),
    "database": (f"redis://:{SECRET}@host/zero", "looks like redis://"),
    "database in the query": (f"redis://:{SECRET}@host?db=1", "rediss://"),
    "TLS without TLS": (f"redis://:{SECRET}@host?ssl_ca_certs=/ca.pem", "rediss://"),
    "unknown parameter": (f"rediss://:{SECRET}@host?ssl_ca_cert=/ca.pem", "ssl_ca_certs"),
    "unknown requirement": (f"rediss://:{SECRET}@host?ssl_cert_reqs=maybe", "required"),
}


@pytest.mark.parametrize("name", ["BROKER_URL", "ARRAYS_URL"])
@pytest.mark.parametrize(("url", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_url_that_cannot_be_used_is_named_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, reason: str
) -> None:
    monkeypatch.setenv(PREFIX + name, url)
    with pytest.raises(FatalError, match=f"^{PREFIX}{name} cannot be used: .+\\.$") as caught:
        get_settings()
    assert reason in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in str(caught.value.__cause__)  # a worker's traceback shows it too


@pytest.mark.parametrize(
    ("url", "verifying"),
    [
        ("rediss://host", "rediss://host?ssl_cert_reqs=required"),
        ("rediss://:pw@host:1/0", "rediss://:pw@host:1/0?ssl_cert_reqs=required"),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", "rediss://host?ssl_cert_reqs=none"),
        ("redis://host/2", "redis://host/2"),
    ],
)
def test_tls_verifies_unless_told_otherwise(url: str, verifying: str) -> None:
    settings = Settings(broker_url=url, arrays_url=url)
    assert settings.broker == settings.arrays == verifying
    assert settings.changed(seed=1).broker == verifying


# --- Secrets -------------------------------------------------------------------------------

#: What Celery tells whoever asks: `celery inspect`, `celery report` and Flower.
ASK = """
import json
from worker.app import app, publish
from worker.messages import NoResult
publish(NoResult(weights="w", failures=()))
inspect = app.control.inspect(limit=1, timeout=30)
asked = "conf report stats scheduled active reserved registered active_queues"
answers = {name: getattr(inspect, name)() for name in asked.split()}
answers["all settings"] = inspect.conf(with_defaults=True)
assert all(answers.values()), answers
print(json.dumps(answers, default=str), app.bugreport())
"""


@contextmanager
def all_that_passes(client: redis.Redis) -> Iterator[Callable[[], str]]:
    """What is said to Redis meanwhile: messages, events and answers, their bodies unpacked."""
    with client.monitor() as monitor:

        def said() -> str:
            client.echo("the end")
            commands = iter(lambda: monitor.next_command()["command"], "ECHO the end")
            text = "\n".join(commands)
            bodies = re.findall(r'"body": "([^"]+)"', text)
            return "\n".join([text, *(base64.b64decode(each).decode() for each in bodies)])

        yield said


@contextmanager
def record_worker(place: Workplace) -> Iterator[Callable[[], str]]:
    """A real worker, which has to stay and to stop well; yields how to read its log."""
    path = place.temporary / "record.log"
    process = place.start("worker", "record", log=path)

    def log() -> str:
        assert process.poll() is None, path.read_text()
        return path.read_text()

    try:
        wait_for(lambda: " ready." in log(), "the worker")
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, path.read_text()


def test_no_secret_appears_anywhere(server: Redis, place: Workplace) -> None:
    database = f"postgresql://database-user:{SECRET}@127.0.0.1:{free_port()}/labels"
    place.environment |= {
        PREFIX + "BROKER_URL": server.url("rediss://{u}:{p}@localhost:{tls}/0" + VERIFIED),
        PREFIX + "DATABASE_URL": database,
    }
    with all_that_passes(server.client) as said:
        with record_worker(place) as log:
            answers = program(place, ASK)
            wait_for(lambda: "does not answer" in log(), "the message to wait for the database")
            status = place.run("status", "--json")
        passed = said()
    written = (place.temporary / "record.log").read_text()
    for expected in ("task-retried", "worker-offline", '"no_result"', "argsrepr", "report"):
        assert expected in passed  # all of it is there to be looked at
    assert "record@" in status
    assert "broker_url" in answers
    for text in (written, answers, status, passed):
        assert SECRET not in text
        assert "database-user" not in text
