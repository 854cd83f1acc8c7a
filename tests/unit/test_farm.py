"""docs/farm.md and what lies beside it agree with the code, with schemas and with each other."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft202012Validator

from tests.commands import parsed
from tests.compose import ROOT, SERVICES, filled, seconds, variables
from worker.queues import QUEUES
from worker.settings import PREFIX, Settings

FARM = ROOT / "docs" / "farm"
PAGE = (ROOT / "docs" / "farm.md").read_text()
SCRIPTS = sorted(FARM.glob("*.sbatch"))
MANIFESTS = [
    resource
    for file in sorted((FARM / "kubernetes").glob("*.yaml"))
    for resource in yaml.safe_load_all(file.read_text())
]
#: The newest version whose schemas the package has, which is the strictest.
SCHEMAS = kubernetes_validate.latest_version()
SERVERS = {"redis", "arrays", "postgres"}


def blocks() -> list[str]:
    """The commands of the page's code blocks."""
    code = "".join(re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    return code.replace("\\\n", " ").splitlines()


def ours(lines: list[str]) -> list[list[str]]:
    """What follows `astronn-stream` wherever it is run, in a container or not."""
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("astronn-stream") + 1 :] for line in words if "astronn-stream" in line]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in MANIFESTS if each["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """The pods of all workloads, by the names of these."""
    kinds = ("Deployment", "StatefulSet", "Job")
    return {name: each["spec"]["template"] for kind in kinds for name, each in named(kind).items()}


def container(name: str) -> dict[str, Any]:
    (only,) = pods()[name]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def sizes(name: str, *, in_memory: bool) -> list[int]:
    """The limits, in bytes, of a pod's temporary folders of one kind; unlimited is an error."""
    folders = [each["emptyDir"] for each in pods()[name]["spec"]["volumes"] if "emptyDir" in each]
    return [
        size(each["sizeLimit"]) for each in folders if (each.get("medium") == "Memory") == in_memory
    ]


def size(quantity: str) -> int:
    """A quantity of Kubernetes in bytes."""
    return int(quantity[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[quantity[-2:]]


def selects(selector: dict[str, Any], name: str) -> bool:
    """Whether a selector of pods matches a workload's."""
    label = pods()[name]["metadata"]["labels"]["app"]
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    if selector.get("matchLabels", {"app": label}) != {"app": label}:
        return False
    return all(
        each["key"] == "app"
        and (label in each["values"]) == {"In": True, "NotIn": False}[each["operator"]]
        for each in selector.get("matchExpressions", [])
    )


def ports(direction: str, own: str, other: str) -> set[int]:
    """The ports by which policies let a pod speak to another, or be spoken to."""
    specs = [each["spec"] for each in named("NetworkPolicy").values()]
    specs = [
        each
        for each in specs
        if direction.title() in each["policyTypes"] and selects(each["podSelector"], own)
    ]
    assert specs  # else all is allowed
    side = {"ingress": "from", "egress": "to"}[direction]
    return {
        port["port"]
        for spec in specs
        for rule in spec.get(direction, [])
        if any(
            "podSelector" in peer and selects(peer["podSelector"], other)
            for peer in rule.get(side, [{"podSelector": {}}])
        )
        for port in rule["ports"]
    }


def referred(part: Any, kind: str) -> set[str]:
    """The names behind all references of a kind in a part of a manifest."""
    match part:
        case dict():
            below = set().union(*(referred(each, kind) for each in part.values()))
            return below | ({part[kind]["name"]} if kind in part else set())
        case list():
            return set().union(*(referred(each, kind) for each in part))
    return set()


# --- The page ------------------------------------------------------------------------------


def test_every_command_of_the_page_exists_with_its_options() -> None:
    commands = ours(blocks())
    assert len(commands) > 10
    assert [words for words in commands if parsed(words) is None] == []


def test_every_file_that_the_page_names_is_there() -> None:
    links = re.findall(r"\]\((?!https)([^)#]+)\)", PAGE)
    files = [word for line in blocks() for word in line.split() if word.startswith("docs/")]
    assert len(files) > 5
    missing = [link for link in links if not (ROOT / "docs" / link).exists()]
    assert missing + [file for file in files if not (ROOT / file).exists()] == []


def test_every_setting_that_is_named_exists() -> None:
    texts = [PAGE, *(path.read_text() for path in FARM.rglob("*.*"))]
    used = set(re.findall(rf"{PREFIX}([A-Z_]+)", "".join(texts)))
    assert len(used) > 5
    assert {name.lower() for name in used} <= set(Settings.model_fields)


def test_the_published_servers_are_those_of_docker_compose() -> None:
    farm = yaml.safe_load((FARM / "compose.yaml").read_text())
    given = {"FARM_ADDRESS": "192.0.2.10"}
    schema = get_builtin_schema("vendor.compose-spec")
    Draft202012Validator(schema).validate(filled(farm, given))
    published = {
        name: filled(service, given)["ports"] for name, service in farm["services"].items()
    }
    assert published == {
        "redis": ["192.0.2.10:6379:6379"],
        "arrays": ["192.0.2.10:6380:6379"],
    }


# --- Slurm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_are_shell_and_end_as_the_worker(script: Path) -> None:
    assert subprocess.run(["/bin/bash", "-n", script], check=False).returncode == 0
    *_, last = script.read_text().splitlines()
    assert last.startswith("exec astronn-stream ")
    parameters = parsed(ours([last.removeprefix("exec ")])[0])
    assert parameters is not None
    assert parameters["stage"] == script.stem
    assert "$SLURM_ARRAY_TASK_ID" in str(parameters["name"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_jobs_stop_in_time_start_again_and_take_nothing_from_the_shell(script: Path) -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script.read_text(), re.MULTILINE))
    assert options["export"] == "NONE"
    assert "requeue" in options
    assert re.fullmatch(r"1-\d+%\d+", options["array"])
    warning = re.fullmatch(r"B:TERM@(\d+)", options["signal"])
    assert warning is not None
    service = "infer-gpu" if script.stem == "infer" else script.stem
    assert int(warning[1]) >= seconds(SERVICES[service]["stop_grace_period"])


# --- Kubernetes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "resource", MANIFESTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_manifests_fit_the_schemas(resource: dict[str, Any]) -> None:
    if resource["apiVersion"].startswith("keda.sh/"):
        assert resource["apiVersion"] == "keda.sh/v1alpha1"
    else:
        kubernetes_validate.validate(resource, SCHEMAS, strict=True)


def test_the_workloads_are_the_services_of_docker_compose() -> None:
    there = {"infer" if name == "infer-gpu" else name for name in SERVICES}
    assert set(pods()) == there - {"infer-cpu", "flower", "metrics"}
    for name in set(pods()) - SERVERS:
        service = SERVICES["infer-gpu" if name == "infer" else name]
        assert container(name)["command"] == service["command"]
        assert container(name)["image"].partition("/")[2] == service["image"]


@pytest.mark.parametrize("server", ["redis", "arrays"])
def test_redis_is_started_as_in_docker_compose(server: str) -> None:
    here = container(server)
    there = SERVICES[server]
    assert [*here["command"], *here["args"]] == filled(there["command"], {})
    assert {each["name"] for each in here["env"]} == set(there["environment"])
    for each in here["env"]:
        reference = each["valueFrom"]["secretKeyRef"]
        assert variables(there["environment"][each["name"]]) == {reference["key"]}


@pytest.mark.parametrize("name", pods())
def test_pods_find_what_they_refer_to(name: str) -> None:
    spec, own = pods()[name]["spec"], container(name)
    volumes = {volume["name"] for volume in spec["volumes"]}
    claims = named("StatefulSet").get(name, {}).get("spec", {}).get("volumeClaimTemplates", [])
    volumes |= {claim["metadata"]["name"] for claim in claims}
    assert {mount["name"] for mount in own["volumeMounts"]} == volumes
    made = set(re.findall(r"kubectl create secret generic (\S+)", PAGE))
    secrets = referred(own, "secretRef") | referred(own, "secretKeyRef")
    assert secrets
    assert secrets <= made
    assert referred(own, "configMapRef") <= set(named("ConfigMap"))
    of_files = referred(spec["volumes"], "configMap")
    assert of_files <= set(re.findall(r"kubectl create configmap (\S+) --from-file=", PAGE))


@pytest.mark.parametrize("name", pods())
def test_pods_are_locked_down_and_limited(name: str) -> None:
    spec, own = pods()[name]["spec"], container(name)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert own["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    limits = own["resources"]["limits"]
    assert sum(sizes(name, in_memory=True)) < size(limits["memory"])
    assert sum(sizes(name, in_memory=False)) < size(limits["ephemeral-storage"])
    given = {mount["mountPath"]: mount for mount in own["volumeMounts"]}
    for folder in ("/data", "/model"):
        if folder in given and name not in SERVERS:
            assert given[folder]["readOnly"]


@pytest.mark.parametrize("name", sorted(set(pods()) - SERVERS - {"migrate"}))
def test_each_knows_its_own_user_and_who_writes_to_the_database_that_too(name: str) -> None:
    known = {source["secretRef"]["name"] for source in container(name)["envFrom"][1:]}
    environment = SERVICES["infer-gpu" if name == "infer" else name]["environment"]
    (user,) = re.findall(r"^redis://(\w+):", environment[f"{PREFIX}BROKER_URL"])
    writes = f"{PREFIX}DATABASE_URL" in environment
    assert known == {f"astronn-{user}"} | ({"astronn-database"} if writes else set())


@pytest.mark.parametrize("name", pods())
def test_pods_reach_the_servers_whose_password_they_need_and_nobody_else(name: str) -> None:
    own = container(name)
    secrets = referred(own, "secretRef")
    users = {"astronn-loader", "astronn-inference", "astronn-ledger"}
    needed = set() if users.isdisjoint(secrets) else {"redis"}
    needed |= {"postgres"} if "astronn-database" in secrets else set()
    needed |= {"arrays"} if own.get("command", [])[2:3] in (["load"], ["infer"]) else set()
    reached = {each: ports("egress", name, each) & ports("ingress", each, name) for each in pods()}
    listened = {each: {named("Service")[each]["spec"]["ports"][0]["port"]} for each in needed}
    assert {each: open_ for each, open_ in reached.items() if open_} == listened
    assert (53 in ports("egress", name, name)) == bool(needed)  # names


def test_from_outside_only_scaling_reaches_a_server_which_it_counts() -> None:
    outside = {
        (name, str(peer["namespaceSelector"]["matchLabels"]))
        for name, policy in named("NetworkPolicy").items()
        for rule in policy["spec"].get("ingress", [])
        for peer in rule["from"]
        if "podSelector" not in peer
    }
    counted = {
        trigger["metadata"]["address"].partition(":")[0]
        for each in named("ScaledObject").values()
        for trigger in each["spec"]["triggers"]
    }
    assert outside == {(name, "{'kubernetes.io/metadata.name': 'keda'}") for name in counted}


def test_policies_name_pods_that_exist() -> None:
    text = (FARM / "kubernetes" / "network.yaml").read_text()
    labels = {
        word for found in re.findall(r"values: \[(.*?)\]", text) for word in found.split(", ")
    }
    labels |= set(re.findall(r"app: (\w+)", text))
    assert labels == set(pods())


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job"])
def test_selectors_select_their_own_pods(kind: str) -> None:
    for name, workload in named(kind).items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert labels == {"app": name}
        assert kind == "Job" or workload["spec"]["selector"]["matchLabels"] == labels
    for name, service in named("Service").items():
        assert service["spec"]["selector"] == pods()[name]["metadata"]["labels"]


@pytest.mark.parametrize("name", named("ScaledObject"))
def test_scaling_counts_the_queues_of_what_it_scales(name: str) -> None:
    spec = named("ScaledObject")[name]["spec"]
    target = named("Deployment")[spec["scaleTargetRef"]["name"]]
    assert "replicas" not in target["spec"]  # else each `apply` would undo the scaling
    for trigger in spec["triggers"]:
        assert trigger["type"] == "redis"
        metadata = trigger["metadata"]
        assert set(metadata) == {"address", "databaseIndex", "listName", "listLength"}
        assert all(isinstance(value, str) for value in metadata.values())
        assert metadata["listName"] in dict(QUEUES)[name]  # type: ignore[index]
        assert metadata["address"].partition(":")[0] in named("Service")
        authentication = named("TriggerAuthentication")[trigger["authenticationRef"]["name"]]
        (password,) = authentication["spec"]["secretTargetRef"]
        assert (password["parameter"], password["key"]) == ("password", "REDIS_PASSWORD")


def test_there_is_enough_on_its_way_for_all_that_is_scaled() -> None:
    settings = named("ConfigMap")["astronn-stream"]["data"]
    most = {name: each["spec"]["maxReplicaCount"] for name, each in named("ScaledObject").items()}
    lengths = {
        trigger["metadata"]["listName"]: int(trigger["metadata"]["listLength"])
        for each in named("ScaledObject").values()
        for trigger in each["spec"]["triggers"]
    }
    messages = int(settings[f"{PREFIX}IN_FLIGHT"]) / Settings().chunk_size
    assert messages >= most["load"] * lengths["load.bulk"]
    assert int(settings[f"{PREFIX}INFER_BACKLOG"]) >= most["infer"] * lengths["infer.bulk"]


def test_a_new_pod_does_not_wait_for_the_gpu_of_the_one_before() -> None:
    for name, workload in named("Deployment").items():
        if "nvidia.com/gpu" in container(name)["resources"]["limits"]:
            assert workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_inference_can_keep_compiled_kernels_wherever_it_runs() -> None:
    (run,) = [line for line in blocks() if "docker run" in line and "worker infer" in line]
    assert re.search(r"-v \w+:/cache ", run)
    assert "/cache" in {mount["mountPath"] for mount in container("infer")["volumeMounts"]}
