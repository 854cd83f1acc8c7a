from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.errors import FatalError
from worker.settings import PREFIX, Settings, get_settings, socket_broker_url

SECRET = "s3cret"  # noqa: S105 - what the tests look for
URLS = {
    "BROKER_URL": f"redis://broker-user:{SECRET}@broker-host:6379/0",
    "ARRAYS_URL": f"redis://arrays-user:{SECRET}@arrays-host:6379/1",
    "DATABASE_URL": f"postgresql://database-user:{SECRET}@database-host/labels",
}

Patch = pytest.MonkeyPatch


def set_variables(monkeypatch: Patch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(PREFIX + name.upper(), value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("broker_url", "redis://host:6379/0", "redis://host:6379/0"),
        ("arrays_url", "unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("database_url", "postgresql://host/labels", "postgresql://host/labels"),
        ("data_root", "/data/dr17", Path("/data/dr17")),
        ("model", "/models/weights.pt", Path("/models/weights.pt")),
        ("corrections", "/models/c.json", Path("/models/c.json")),
        ("device", "cuda", "cuda"),
        ("mc_samples", "2", 2),
        ("seed", "9007199254740993", 9007199254740993),
        ("coadd_mask", "or", "or"),
        ("chunk_size", "1", 1),
        ("batch_size", "128", 128),
        ("batch_wait", "0.25", 0.25),
        ("array_ttl", "60", 60),
        ("load_processes", "3", 3),
        ("infer_threads", "1", 1),
    ],
)
def test_each_setting_is_read_from_its_variable(
    monkeypatch: Patch, name: str, text: str, value: object
) -> None:
    assert getattr(get_settings(), name) != value
    get_settings.cache_clear()
    set_variables(monkeypatch, **{name: text})
    assert getattr(get_settings(), name) == value


def test_the_defaults_are_those_of_the_specification() -> None:
    settings = get_settings()
    assert (settings.mc_samples, settings.seed, settings.coadd_mask) == (100, 0, "and")
    assert (settings.model, settings.corrections) == (None, None)


def test_an_empty_variable_counts_as_none(monkeypatch: Patch) -> None:
    set_variables(monkeypatch, broker_url="", mc_samples="", model="")
    assert get_settings() == Settings(_env_file=None)
    assert get_settings().mc_samples == 100
    assert get_settings().model is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mc_samples", "many"),
        ("mc_samples", "1"),
        ("mc_samples", "1.5"),
        ("seed", "-1"),
        ("device", "tpu"),
        ("coadd_mask", "xor"),
        ("chunk_size", "0"),
        ("batch_size", "-3"),
        ("batch_wait", "-0.1"),
        ("batch_wait", "soon"),
        ("array_ttl", "0"),
        ("load_processes", "-1"),
        ("infer_threads", "0"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(monkeypatch: Patch, name: str, value: str) -> None:
    set_variables(monkeypatch, **{name: value})
    with pytest.raises(FatalError, match=f"^{PREFIX}{name.upper()} cannot be used: .+\\.$"):
        get_settings()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_wait_that_is_no_time_is_refused(monkeypatch: Patch, value: str) -> None:
    set_variables(monkeypatch, batch_wait=value)
    with pytest.raises(FatalError, match="BATCH_WAIT cannot be used"):
        get_settings()


def test_settings_are_read_once(monkeypatch: Patch) -> None:
    first = get_settings()
    set_variables(monkeypatch, mc_samples="7")
    assert get_settings() is first


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        get_settings().mc_samples = 3  # type: ignore[misc]


def test_the_text_of_settings_hides_urls_and_passwords(monkeypatch: Patch) -> None:
    set_variables(monkeypatch, **URLS)
    for text in (repr(get_settings()), str(get_settings())):
        assert "mc_samples=100" in text
        assert SECRET not in text
        assert "host" not in text
        assert "user" not in text


# --- Paths and URLs ------------------------------------------------------------------------


def test_a_relative_sqlite_url_becomes_absolute(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    set_variables(monkeypatch, database_url="sqlite:///runs/labels.sqlite")
    assert get_settings().database_url == f"sqlite:///{tmp_path.resolve()}/runs/labels.sqlite"


def test_the_default_database_lies_in_the_current_folder(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    url = get_settings().changed(mc_samples=3).database_url
    assert url == f"sqlite:///{tmp_path.resolve()}/astronn-stream.sqlite"


@pytest.mark.parametrize("url", ["sqlite:////var/labels.sqlite", "postgresql://host/labels"])
def test_an_absolute_database_url_stays(monkeypatch: Patch, url: str) -> None:
    set_variables(monkeypatch, database_url=url)
    assert get_settings().database_url == url


def test_the_default_database_url_is_absolute_without_any_change(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = get_settings()
    monkeypatch.chdir("/")
    assert settings.changed(seed=1).database_url == settings.changed(seed=2).database_url
    assert str(tmp_path.resolve()) in settings.database_url


@pytest.mark.parametrize("name", ["data_root", "model", "corrections"])
def test_relative_paths_become_absolute(monkeypatch: Patch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    set_variables(monkeypatch, **{name: "some/thing"})
    assert getattr(get_settings(), name) == tmp_path.resolve() / "some" / "thing"


def test_the_files_of_tls_become_absolute(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    said = "ssl_ca_certs=some/ca.pem&ssl_check_hostname=true"
    url = Settings(broker_url=f"rediss://host/0?{said}").broker
    assert (
        url == f"rediss://host/0?{said.replace('some', f'{tmp_path}/some')}&ssl_cert_reqs=required"
    )


@pytest.mark.parametrize(
    ("broker", "arrays"),
    [
        ("redis://user:pw@host:6379/0", "redis://user:pw@host:6379/1"),
        ("redis://host:6379/3", "redis://host:6379/1"),
        ("redis://host", "redis://host/1"),
        ("redis://:p%40ss@[::1]:6379/0", "redis://:p%40ss@[::1]:6379/1"),
        (
            "rediss://user:pw@host:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem",
            "rediss://user:pw@host:6380/1?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem",
        ),
        ("redis+socket:///run/redis.sock?virtual_host=0", "unix:///run/redis.sock?db=1"),
        ("redis+socket:///run/redis.sock", "unix:///run/redis.sock?db=1"),
    ],
)
def test_the_array_store_is_the_brokers_second_database(broker: str, arrays: str) -> None:
    assert Settings(broker_url=broker).arrays == arrays


@pytest.mark.parametrize("broker", ["redis+socket://:pw@/run/redis.sock?virtual_host=0"])
def test_the_password_of_a_socket_is_kept(broker: str) -> None:
    import redis

    arguments = redis.ConnectionPool.from_url(Settings(broker_url=broker).arrays).connection_kwargs
    assert arguments["path"] == "/run/redis.sock"
    assert arguments["db"] == 1
    assert arguments["password"] == "pw"  # noqa: S105


def test_an_array_store_of_its_own_is_taken_as_it_is() -> None:
    settings = Settings(broker_url="redis://a/0", arrays_url="redis://b:1/7")
    assert (settings.broker, settings.arrays) == ("redis://a/0", "redis://b:1/7")


def test_without_a_broker_the_socket_of_the_embedded_one_is_used() -> None:
    settings = Settings(database_url="sqlite:////one.sqlite")
    directory = settings.stack_directory
    assert settings.broker == socket_broker_url(directory)
    assert settings.broker == f"redis+socket://{directory}/redis.sock?virtual_host=0"
    assert settings.arrays == f"unix://{directory}/redis.sock?db=1"
    assert len(str(directory / "redis.sock")) < 100  # what a Unix socket's address can hold


def test_stacks_of_different_databases_do_not_meet() -> None:
    one, other = (Settings(database_url=f"sqlite:////{name}.sqlite") for name in ("one", "other"))
    assert one.stack_directory != other.stack_directory
    assert one.stack_directory == one.changed(mc_samples=5, device="cpu").stack_directory


# --- Changes, and handing over to child processes ------------------------------------------


def test_changed_replaces_and_validates() -> None:
    settings = Settings(mc_samples=50, seed=3)
    changed = settings.changed(mc_samples=60, seed=None)
    assert (changed.mc_samples, changed.seed, settings.mc_samples) == (60, 3, 50)
    with pytest.raises(ValidationError):
        settings.changed(mc_samples=1)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(
            broker_url=URLS["BROKER_URL"],
            arrays_url=URLS["ARRAYS_URL"],
            database_url=URLS["DATABASE_URL"],
            data_root=Path("/data with blanks"),
            model=Path("/models/Ångström.pt"),
            corrections=Path("/models/c.pkl"),
            device="cpu",
            mc_samples=17,
            seed=2**63 - 1,
            coadd_mask="or",
            chunk_size=5,
            batch_size=6,
            batch_wait=1 / 3,
            array_ttl=8,
            load_processes=9,
            infer_threads=10,
        ),
    ],
    ids=["defaults", "all changed"],
)
def test_settings_survive_the_way_through_the_environment(
    monkeypatch: Patch, settings: Settings
) -> None:
    for name, value in settings.environment().items():
        assert name.startswith(PREFIX)
        monkeypatch.setenv(name, value)
    assert get_settings() == settings


def test_changed_settings_reach_children_whatever_this_environment_says(
    monkeypatch: Patch,
) -> None:
    set_variables(monkeypatch, broker_url="redis://elsewhere", mc_samples="7")
    before, environment = get_settings(), dict(os.environ)
    settings = before.apart("broker_url", mc_samples=9)
    assert get_settings() == before
    assert dict(os.environ) == environment
    program = """
from worker.settings import get_settings
print(get_settings().broker_url, get_settings().mc_samples)
"""
    assert run(program, **settings.environment()) == "None 9"


def test_settings_apart_have_defaults_in_place_of_what_the_environment_says(
    monkeypatch: Patch,
) -> None:
    set_variables(
        monkeypatch, broker_url="redis://elsewhere", database_url="sqlite:////e.sqlite", seed="5"
    )
    own = get_settings().apart("broker_url", "database_url", data_root="/here")
    assert own.broker_url is None
    assert own.database_url == f"sqlite:///{Path.cwd() / 'astronn-stream.sqlite'}"
    assert (own.data_root, own.seed) == (Path("/here"), 5)


def test_a_zero_replaces_what_the_environment_says(monkeypatch: Patch) -> None:
    set_variables(monkeypatch, seed="5", batch_wait="0.5", load_processes="3")
    settings = get_settings().changed(seed=0, batch_wait=0.0, load_processes=0)
    assert (settings.seed, settings.batch_wait, settings.load_processes) == (0, 0, 0)


# --- What imports do not do ----------------------------------------------------------------


def run(program: str, **environment: str) -> str:
    """The output of a Python program that ends well."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_application_reads_no_settings() -> None:
    program = """
import worker.app
print("imported")
try:
    worker.app.app.conf.broker_url
except Exception as error:
    print(type(error).__name__, error)
"""
    imported, failed = run(program, ASTRONN_STREAM_MC_SAMPLES="many").splitlines()
    assert imported == "imported"
    assert failed.startswith("FatalError ASTRONN_STREAM_MC_SAMPLES cannot be used")


LIGHT_MODULES = (
    "producer.sources.files",
    "producer.ledger.register",
    "producer.ledger.release",
    "producer.commands.options",
    "producer.commands.main",
    "worker.app",
    "worker.stages.load",
    "worker.stages.infer",
    "worker.stages.record",
)


def test_all_but_the_network_imports_with_torch_absent() -> None:
    program = f"""
import importlib, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NoTorch())
for name in {LIGHT_MODULES!r}:
    importlib.import_module(name)
try:
    import worker.network.model
except ModuleNotFoundError as error:
    print("blocked", error.name)
"""
    assert run(program) == "blocked torch"


def test_none_of_these_imports_torch_where_it_is_there() -> None:
    program = f"""
import importlib, sys
for name in {LIGHT_MODULES!r}:
    importlib.import_module(name)
print("torch" in sys.modules)
"""
    assert run(program) == "False"
