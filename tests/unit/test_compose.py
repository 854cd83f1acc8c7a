"""docker-compose.yml agrees with the code, with .env.example and with itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.embedded import COMMANDS, DISPATCHER, FLOWER, LIVE_LOADER
from worker.messages import STAGES
from worker.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
WORKERS = [*STAGES, LIVE_LOADER, DISPATCHER]
OURS = [*WORKERS, "migrate", FLOWER]

#: Which services hold a secret; no other may.
HOLDERS = {
    "REDIS_PASSWORD": {"redis", "arrays", *WORKERS, FLOWER},
    "POSTGRES_PASSWORD": {"postgres", "migrate", "record", DISPATCHER},
    "FLOWER_BASIC_AUTH": {FLOWER},
}
_VARIABLE = re.compile(r"(?<!\$)\$(?:\{(\w+)(?:(:?[-?+])([^}]*))?\}|(\w+))")


def variables(text: str) -> set[str]:
    """The variables that Compose would fill in."""
    uncommented = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    return {braced or bare for braced, _, _, bare in _VARIABLE.findall(uncommented)}


def env_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    entries = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in entries}


def environment(service: str) -> dict[str, str]:
    variables_set: dict[str, str] = SERVICES[service].get("environment", {})
    return variables_set


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch, **given: str) -> Settings:
    """The settings that a service reads when .env holds what is given."""

    def fill(match: re.Match[str]) -> str:
        name, kind, other, _ = match.groups()
        value = given.get(name, "")
        if value:
            return value
        assert kind == ":-", f"{name} is required"
        return other

    for name, value in environment(service).items():
        monkeypatch.setenv(name, _VARIABLE.sub(fill, value))
    return Settings()


def test_the_services_are_those_of_the_stack() -> None:
    assert set(SERVICES) == {"redis", "arrays", "postgres", "migrate", *COMMANDS}


@pytest.mark.parametrize("stage", STAGES)
def test_workers_run_the_commands_of_the_local_stack(stage: str) -> None:
    assert SERVICES[stage]["command"] == COMMANDS[stage]


def test_flower_differs_from_the_local_one_by_its_address() -> None:
    here = [
        "--address=0.0.0.0" if part.startswith("--address=") else part for part in COMMANDS[FLOWER]
    ]
    assert SERVICES[FLOWER]["command"] == here


def test_only_flower_is_published_and_only_to_this_host() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {FLOWER: ["127.0.0.1:5555:5555"]}


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_exists(service: str) -> None:
    ours = [name for name in environment(service) if name.startswith(PREFIX)]
    assert {name.removeprefix(PREFIX).lower() for name in ours} <= set(Settings.model_fields)


def test_record_reads_the_settings_that_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"REDIS_PASSWORD": "of-redis", "POSTGRES_PASSWORD": "of-postgres"}
    settings = settings_of("record", monkeypatch, **given)
    assert settings.broker == "redis://:of-redis@redis:6379/0"
    assert settings.arrays == "redis://:of-redis@arrays:6379/0"
    assert settings.database_url == "postgresql://astronn:of-postgres@postgres/astronn"
    assert settings.data_root == Path("/data")
    assert settings.model == Path("/model/weights.pt")
    assert settings.corrections is None
    with_corrections = settings_of("record", monkeypatch, **given, CORRECTIONS="/model/noise.json")
    assert with_corrections.corrections == Path("/model/noise.json")


@pytest.mark.parametrize("service", ["infer", DISPATCHER])
def test_a_survey_never_runs_on_the_starter_weights(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    given = {"REDIS_PASSWORD": "of-redis", "POSTGRES_PASSWORD": "of-postgres"}
    assert settings_of(service, monkeypatch, **given).weights_file == Path("/model/weights.pt")


def test_env_example_lists_what_is_used_and_nothing_else() -> None:
    assert set(env_example()) == variables(TEXT)


def test_env_example_holds_no_value_that_would_work() -> None:
    assert set(env_example().values()) == {""}


@pytest.mark.parametrize("secret", HOLDERS)
def test_a_secret_is_required_wherever_it_is_used(secret: str) -> None:
    used = re.findall(rf"\$\{{?{secret}\b[^}}]*", TEXT)
    assert used
    assert all(use.startswith(f"${{{secret}:?") for use in used)


@pytest.mark.parametrize("secret", HOLDERS)
def test_a_secret_goes_only_where_it_is_needed(secret: str) -> None:
    holders = {name for name, service in SERVICES.items() if secret in variables(str(service))}
    assert holders == HOLDERS[secret]


def test_only_those_who_write_to_the_database_know_it() -> None:
    url = f"{PREFIX}DATABASE_URL"
    assert {name for name in SERVICES if url in environment(name)} == {
        "migrate",
        "record",
        DISPATCHER,
    }


@pytest.mark.parametrize("stage", STAGES)
def test_data_and_model_are_mounted_read_only(stage: str) -> None:
    mounts = {mount["target"]: mount for mount in SERVICES[stage]["volumes"]}
    assert set(mounts) == {"/data", "/model"}
    assert all(mount["read_only"] for mount in mounts.values())


@pytest.mark.parametrize("service", OURS)
def test_our_containers_can_change_nothing(service: str) -> None:
    configured = SERVICES[service]
    assert configured["read_only"]
    assert configured["tmpfs"] == ["/tmp"]  # noqa: S108 - the container's own
    assert configured["cap_drop"] == ["ALL"]
    assert configured["user"] == "${RUN_AS:-10001:10001}"
    assert not configured.get("privileged", False)


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1:] == ["10001:10001"]


def test_redis_keeps_every_message() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert options["--requirepass"].startswith("${REDIS_PASSWORD:?")
    assert "redis:/data" in SERVICES["redis"]["volumes"]


@pytest.mark.parametrize("stage", STAGES)
def test_workers_come_after_what_they_need_and_have_time_to_finish(stage: str) -> None:
    needed = {name: each["condition"] for name, each in SERVICES[stage]["depends_on"].items()}
    assert needed["redis"] == "service_healthy"
    assert (needed.get("migrate") == "service_completed_successfully") == (stage == "record")
    assert SERVICES[stage]["stop_grace_period"] == "60s"
    assert SERVICES[stage]["restart"] == "unless-stopped"


def test_what_is_waited_for_has_a_health_check_or_an_end() -> None:
    for service in SERVICES.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert SERVICES[name]["healthcheck"]["test"]
            else:
                assert SERVICES[name]["restart"] == "no"
