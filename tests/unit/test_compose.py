"""docker-compose.yml agrees with its schema, the code, .env.example, the Dockerfile and itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft202012Validator

import producer.commands.main
from tests.commands import parsed
from tests.compose import (
    DOCKERFILE,
    LEFT_OUT,
    PASSWORD_OF,
    ROOT,
    SERVICES,
    TEXT,
    filled,
    seconds,
    variables,
)
from worker.local.stack import COMMANDS, DISPATCHER, FLOWER, LIVE_LOADER
from worker.settings import PREFIX, Settings

SERVERS = ["redis", "arrays", "postgres"]
INFERENCE = ["infer-cpu", "infer-gpu"]
WORKERS = ["load", LIVE_LOADER, *INFERENCE, "record"]
PRODUCERS = [DISPATCHER, "watch"]
OURS = [*WORKERS, *PRODUCERS, "migrate", "metrics", FLOWER]

#: Who each service is for both Redis; docs/farm/redis.sh says what that may do.
USERS = {
    **dict.fromkeys(("load", LIVE_LOADER), "loader"),
    **dict.fromkeys(INFERENCE, "inference"),
    **dict.fromkeys(("record", *PRODUCERS), "ledger"),
    **dict.fromkeys(("metrics", FLOWER), "watcher"),
}
#: Which services hold a secret; no other may.
HOLDERS = {
    "REDIS_PASSWORD": {"redis", "arrays"},
    "REDIS_WORKER_PASSWORD": {"redis", "arrays", "load", LIVE_LOADER, *INFERENCE},
    "REDIS_LEDGER_PASSWORD": {"redis", "arrays", "record", *PRODUCERS},
    "REDIS_WATCHER_PASSWORD": {"redis", "arrays", "metrics", FLOWER},
    "POSTGRES_PASSWORD": {"postgres", "migrate", "record", "metrics", *PRODUCERS},
    "FLOWER_BASIC_AUTH": {FLOWER},
}
#: What is mounted, always for reading alone; who parses files has no weights and no database.
MOUNTED = {
    **{name: {"/data"} for name in ("load", LIVE_LOADER)},
    **{name: {"/model"} for name in (*INFERENCE, "record")},
    **{name: {"/data", "/model"} for name in PRODUCERS},
}
PASSWORDS = {name: f"of-{name}" for name in HOLDERS}
#: Variables that Compose reads by itself.
OF_COMPOSE = {"COMPOSE_PROFILES"}


def env_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    entries = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in entries}


def environment(service: str) -> dict[str, str]:
    variables_set: dict[str, str] = SERVICES[service].get("environment", {})
    return variables_set


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch, **given: str) -> Settings:
    """The settings that a service reads when .env holds what is given."""
    for name, value in filled(environment(service), given).items():
        monkeypatch.setenv(name, value)
    return Settings()


def mounts(service: str) -> dict[str, dict[str, Any]]:
    """The folders of the host that a service sees."""
    return {
        mount["target"]: mount
        for mount in SERVICES[service].get("volumes", [])
        if isinstance(mount, dict)
    }


# --- Form ----------------------------------------------------------------------------------


def test_the_file_fits_the_schema_of_compose() -> None:
    given = dict.fromkeys(variables(TEXT), "1")
    schema = get_builtin_schema("vendor.compose-spec")
    problems = Draft202012Validator(schema).iter_errors({"services": filled(SERVICES, given)})
    assert [problem.message for problem in problems] == []


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""


def test_env_example_lists_what_is_used_and_nothing_else() -> None:
    assert set(env_example()) == variables(TEXT) | OF_COMPOSE


def test_env_example_holds_no_value_that_would_work() -> None:
    assert set(env_example().values()) == {""}


# --- Services ------------------------------------------------------------------------------


def test_the_services_are_those_of_the_stack_and_of_production() -> None:
    of_the_stack = set(COMMANDS) - {"infer"} | set(INFERENCE)
    assert set(SERVICES) == of_the_stack | {*SERVERS, "migrate", "watch", "metrics"}


@pytest.mark.parametrize(
    ("service", "name"),
    [*zip(COMMANDS, COMMANDS, strict=True), ("infer-cpu", "infer"), ("infer-gpu", "infer")],
)
def test_services_run_the_commands_of_the_local_stack(service: str, name: str) -> None:
    if service in SERVICES:  # `infer` is two here
        here = SERVICES[service]["command"]
        local = [part.replace("--address=0.0.0.0", "--address=127.0.0.1") for part in here]
        assert local == COMMANDS[name]


@pytest.mark.parametrize("service", [name for name in OURS if name != FLOWER])
def test_every_command_exists_with_its_options(service: str) -> None:
    executable, *words = SERVICES[service]["command"]
    assert executable == "astronn-stream"
    assert parsed(words) is not None


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_profile_starts_one_inference(profile: str) -> None:
    def starts(service: dict[str, Any]) -> bool:
        return profile in service.get("profiles", [profile])

    started = {name for name, service in SERVICES.items() if starts(service)}
    assert started == set(SERVICES) - set(INFERENCE) | {f"infer-{profile}"}
    assert environment(f"infer-{profile}")[f"{PREFIX}DEVICE"] == {"gpu": "cuda"}.get(profile, "cpu")


def test_only_one_service_takes_a_gpu() -> None:
    taken = {
        name: service["deploy"]["resources"].get("reservations")
        for name, service in SERVICES.items()
        if "reservations" in service["deploy"]["resources"]
    }
    device = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert taken == {"infer-gpu": {"devices": [device]}}
    limits = [SERVICES[name]["deploy"]["resources"]["limits"] for name in INFERENCE]
    assert limits[0] == limits[1]


@pytest.mark.parametrize("service", OURS)
def test_only_inference_has_the_large_image(service: str) -> None:
    target = "infer" if service in INFERENCE else "stage"
    assert SERVICES[service]["build"]["target"] == target
    assert re.search(rf"^FROM runtime AS {target}$", DOCKERFILE, re.MULTILINE)
    assert SERVICES[service]["image"].startswith(f"astronn-stream:{target}")
    argument = SERVICES[service]["build"].get("args", {}).get("TORCH_BACKEND")
    assert argument == {"infer-cpu": "cpu", "infer-gpu": "${TORCH_BACKEND:-}"}.get(service)


def test_the_image_for_gpus_has_what_triton_needs() -> None:
    (infer,) = re.findall(r"^FROM runtime AS infer\n(.*?)^FROM ", DOCKERFILE, re.M | re.S)
    assert 'if [ "$TORCH_BACKEND" != cpu ]' in infer
    assert re.search(r"apt-get install .*\bgcc libc6-dev\b", infer)
    # What it compiles is a library, and none can be loaded from a tmpfs of Docker's.
    cache = re.search(r"TRITON_CACHE_DIR=(\S+)/triton", infer)
    assert cache is not None
    assert f"kernels:{cache[1]}" in SERVICES["infer-gpu"]["volumes"]
    assert f"--mode=1777 {cache[1]}" in DOCKERFILE  # whoever RUN_AS names


def test_only_what_is_looked_at_is_published_and_only_to_this_host() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        FLOWER: ["127.0.0.1:5555:5555"],
        "metrics": ["127.0.0.1:9540:9540"],
    }


# --- Settings and secrets ------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_exists(service: str) -> None:
    ours = [name for name in environment(service) if name.startswith(PREFIX)]
    assert {name.removeprefix(PREFIX).lower() for name in ours} <= set(Settings.model_fields)


def test_a_producer_reads_the_settings_that_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(DISPATCHER, monkeypatch, **PASSWORDS)
    assert settings.database_url == "postgresql://astronn:of-POSTGRES_PASSWORD@postgres/astronn"
    assert settings.data_root == Path("/data")
    assert settings.model == Path("/model/weights.pt")


@pytest.mark.parametrize("service", USERS)
def test_each_logs_in_to_redis_as_who_it_is(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    settings = settings_of(service, monkeypatch, **PASSWORDS)
    user = f"{USERS[service]}:of-{PASSWORD_OF[USERS[service]]}"
    assert settings.broker == f"redis://{user}@redis:6379/0"
    assert settings.arrays == f"redis://{user}@arrays:6379/0"


@pytest.mark.parametrize("server", ["redis", "arrays"])
def test_redis_is_given_all_that_its_script_asks_for(server: str) -> None:
    assert set(environment(server)) == set(PASSWORD_OF.values())
    script = mounts(server)["/farm/redis.sh"]
    assert (ROOT / script["source"]).is_file()
    assert script["read_only"]
    assert not script["bind"]["create_host_path"]


@pytest.mark.parametrize("service", [DISPATCHER, "metrics"])
def test_who_looks_at_the_stream_knows_the_settings_of_its_stages(service: str) -> None:
    assert set(yaml.safe_load(TEXT)["x-stage"]) <= set(environment(service))


def test_record_takes_corrections_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of("record", monkeypatch, **PASSWORDS).corrections is None
    given = {**PASSWORDS, "CORRECTIONS": "/model/noise.json"}
    assert settings_of("record", monkeypatch, **given).corrections == Path("/model/noise.json")


def test_load_takes_a_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of("load", monkeypatch, **PASSWORDS, LOAD_PROCESSES="3").loaders == 3


@pytest.mark.parametrize("service", [*INFERENCE, *PRODUCERS])
def test_a_survey_never_runs_on_the_starter_weights(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    assert settings_of(service, monkeypatch, **PASSWORDS).weights_file == Path("/model/weights.pt")


@pytest.mark.parametrize("secret", HOLDERS)
def test_a_secret_is_required_wherever_it_is_used(secret: str) -> None:
    used = re.findall(rf"\$\{{?{secret}\b[^}}]*", TEXT)
    assert used
    assert all(use.startswith(f"${{{secret}:?") for use in used)


@pytest.mark.parametrize("secret", HOLDERS)
def test_a_secret_goes_only_where_it_is_needed_and_into_no_command_line(secret: str) -> None:
    holders = {name for name, service in SERVICES.items() if secret in variables(str(service))}
    assert holders == HOLDERS[secret]
    for service in SERVICES.values():
        told = [service.get("command"), service.get("healthcheck"), service.get("build")]
        assert secret not in variables(str(told))


# --- Containers ----------------------------------------------------------------------------


@pytest.mark.parametrize("service", OURS)
def test_the_host_is_seen_no_more_than_needed_and_read_only(service: str) -> None:
    assert set(mounts(service)) == MOUNTED.get(service, set())
    assert all(mount["read_only"] for mount in mounts(service).values())
    assert all(not mount["bind"]["create_host_path"] for mount in mounts(service).values())


@pytest.mark.parametrize("service", SERVICES)
def test_containers_can_change_nothing(service: str) -> None:
    configured = SERVICES[service]
    assert configured["read_only"]
    assert "/tmp" in configured["tmpfs"]  # noqa: S108 - the container's own
    assert configured["cap_drop"] == ["ALL"]
    assert configured["security_opt"] == ["no-new-privileges:true"]
    assert not configured.get("privileged", False)


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_is_root(service: str) -> None:
    own = {"redis": "redis", "arrays": "redis", "postgres": "postgres"}
    assert SERVICES[service]["user"] == own.get(service, "${RUN_AS:-10001:10001}")


def test_the_images_do_not_run_as_root() -> None:
    users = [
        re.findall(r"^USER (\S+)", stage, re.MULTILINE) for stage in DOCKERFILE.split("\nFROM ")
    ]
    # Of `runtime`, and again of `infer`, which installs a compiler before.
    assert [each[-1] for each in users if each] == ["10001:10001"] * 2
    assert re.findall(r"^FROM runtime", DOCKERFILE, re.MULTILINE) == ["FROM runtime"] * 2


@pytest.mark.parametrize("service", SERVICES)
def test_limits_are_set_and_whoever_ends_is_started_again(service: str) -> None:
    configured = SERVICES[service]
    wanted = {"pids"} if service == "arrays" else {"memory", "pids"}  # it has --maxmemory
    assert set(configured["deploy"]["resources"]["limits"]) == wanted
    assert configured["restart"] == ("no" if service == "migrate" else "unless-stopped")
    assert seconds(configured["stop_grace_period"]) >= (60 if service in WORKERS else 10)
    assert configured["logging"] == {"driver": "local"}


@pytest.mark.parametrize("service", SERVICES)
def test_what_serves_is_asked_whether_it_does(service: str) -> None:
    unasked = {"migrate", "watch"}  # the one ends; nothing asks the other, but for its end
    assert ("healthcheck" in SERVICES[service]) == (service not in unasked)


@pytest.mark.parametrize(
    ("server", "options"),
    [
        ("redis", {"--appendonly": "yes", "--save": "", "--maxmemory-policy": "noeviction"}),
        (
            "arrays",
            {
                "--appendonly": "no",
                "--save": "",
                "--maxmemory": "${ARRAYS_MEMORY:-1gb}",
                "--maxmemory-policy": "volatile-ttl",
            },
        ),
    ],
)
def test_redis_keeps_messages_and_lets_flux_go(server: str, options: dict[str, str]) -> None:
    command = SERVICES[server]["command"]
    assert command[:2] == ["sh", "/farm/redis.sh"]
    own = command[2:]
    assert dict(zip(own[::2], own[1::2], strict=True)) == options
    assert ("redis:/data" in SERVICES[server].get("volumes", [])) == (server == "redis")


@pytest.mark.parametrize("service", WORKERS)
def test_workers_come_after_what_they_need(service: str) -> None:
    needed = {name: each["condition"] for name, each in SERVICES[service]["depends_on"].items()}
    assert needed["redis"] == needed["arrays"] == "service_healthy"
    assert (needed.get("migrate") == "service_completed_successfully") == (service == "record")


def test_what_is_waited_for_has_a_health_check_or_an_end() -> None:
    for service in SERVICES.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert SERVICES[name]["healthcheck"]["test"]
            else:
                assert SERVICES[name]["restart"] == "no"


def test_one_resolution_serves_both_images() -> None:
    commands = re.findall(r"(?:uv|\$list) [^&\n]*", DOCKERFILE.replace("\\\n", " "))
    assert sum(command.startswith("uv lock ") for command in commands) == 1
    exports = [command for command in commands if "uv export" in command]
    assert [command for command in exports if "--frozen" not in command] == []
    lists = [command for command in commands if command.startswith("$list ")]
    written = {re.findall(r"--output-file (\S+)", command)[0] for command in lists}
    installed = {re.findall(r"sync (\S+)", each)[0] for each in commands if "pip sync" in each}
    assert installed == written
    installs = [command for command in commands if command.startswith("uv pip install")]
    bound = ("--no-deps", "--constraint all.txt")
    assert [each for each in installs if not any(option in each for option in bound)] == []


# --- The image without torch ---------------------------------------------------------------


def test_what_the_slim_image_lacks_is_told_in_a_sentence(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"anything")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(LEFT_OUT)}))
sys.argv = ["astronn-stream", "model", "info", {str(weights)!r}]
from producer.commands.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "Error: This needs torch, which this installation leaves out" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(producer.commands.main.LEFT_OUT) <= LEFT_OUT
