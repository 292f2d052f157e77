"""The Kubernetes manifests: valid by the API's own schemas, and in agreement with each other and with the gateway."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.definitions.load import load_directory
from gateway.settings import VARIABLES, load_settings
from tests.deploy.dockerfile import ROOT
from tests.tools import tool

MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
OLDEST, NEWEST = "1.30", "1.37"


def documents() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def the(kind: str, name: str = "gateway") -> dict[str, Any]:
    (found,) = [each for each in documents() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


PODS = {
    "gateway": the("Deployment")["spec"]["template"]["spec"],
    "migrate": the("Job", "gateway-migrate")["spec"]["template"]["spec"],
}
every_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    found: dict[str, Any] = only
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_they_are_valid_by_the_schemas_of_the_api(version: str) -> None:
    command = [tool("kubernetes-validate"), "--strict", "--kubernetes-version", version, *map(str, MANIFESTS)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_misspelt_key_would_be_noticed(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((ROOT / "deploy/kubernetes/gateway.yaml").read_text().replace("readOnlyRootFilesystem", "readOnlyRoot"))
    command = [tool("kubernetes-validate"), "--strict", str(wrong)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode != 0
    assert "readOnlyRoot" in told.stdout + told.stderr


def test_there_is_what_an_operator_needs() -> None:
    kinds = {document["kind"] for document in documents()}
    of_the_gateway = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Ingress"}
    assert kinds == {"ConfigMap", "Job", *of_the_gateway}


@every_pod
def test_a_pod_may_do_no_more_than_it_must(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    held = container(pod)["securityContext"]
    assert held == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert container(pod)["resources"].keys() == {"requests", "limits"}
    assert "memory" in container(pod)["resources"]["limits"]
    assert {mount["mountPath"] for mount in container(pod)["volumeMounts"]} >= {"/tmp"}


@every_pod
def test_a_pod_mounts_volumes_that_it_has_and_a_pinned_image(pod: dict[str, Any]) -> None:
    assert {mount["name"] for mount in container(pod)["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    _, colon, tag = container(pod)["image"].rpartition(":")
    assert colon
    assert tag != "latest"


def test_both_pods_run_the_same_image() -> None:
    assert len({container(pod)["image"] for pod in PODS.values()}) == 1


def test_selectors_find_the_pods_and_the_migration_is_not_among_them() -> None:
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind, path in (("Deployment", "selector"), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        assert the(kind)["spec"][path]["matchLabels"] == labels
    assert the("Service")["spec"]["selector"] == labels
    assert the("Job", "gateway-migrate")["spec"]["template"]["metadata"]["labels"] != labels


def test_restarts_ask_whether_it_lives_and_traffic_whether_it_is_ready() -> None:
    gateway = container(PODS["gateway"])
    asked = {name: gateway[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }
    (port,) = gateway["ports"]
    assert {probe["port"] for probe in asked.values()} == {port["name"]}
    assert the("Service")["spec"]["ports"][0]["targetPort"] == port["name"]


def test_a_pod_has_the_time_to_drain() -> None:
    settings = the("ConfigMap")["data"]
    needed = float(settings["SHUTDOWN_DRAIN_SECONDS"]) + float(settings["SHUTDOWN_TIMEOUT_SECONDS"])
    assert PODS["gateway"]["terminationGracePeriodSeconds"] >= needed + 10
    probe = container(PODS["gateway"])["readinessProbe"]
    assert float(settings["SHUTDOWN_DRAIN_SECONDS"]) >= probe["periodSeconds"] * probe["failureThreshold"]


def test_its_settings_are_ones_that_the_gateway_takes() -> None:
    settings = the("ConfigMap")["data"]
    assert settings.keys() <= {variable.name for variable in VARIABLES}
    load_settings({**settings, "DATABASE_URL": "postgresql://u:p@host/db"}, None)
    (secret,) = container(PODS["migrate"])["env"]
    assert secret["name"] in {variable.name for variable in VARIABLES}


def test_no_secret_is_written_in_them() -> None:
    assert "Secret" not in {document["kind"] for document in documents()}
    text = "".join(path.read_text() for path in MANIFESTS)
    assert "://gateway:" not in text
    assert "DATABASE_URL" not in the("ConfigMap")["data"]


def test_the_world_sees_neither_metrics_nor_what_ails_the_gateway() -> None:
    (rule,) = the("Ingress")["spec"]["rules"]
    assert [path["path"] for path in rule["http"]["paths"]] == ["/api", "/docs", "/health/live"]


def test_replicas_are_the_autoscalers_to_say() -> None:
    assert "replicas" not in the("Deployment")["spec"]
    autoscaler = the("HorizontalPodAutoscaler")["spec"]
    assert autoscaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gateway"}
    assert 2 <= autoscaler["minReplicas"] < autoscaler["maxReplicas"]


def test_resource_files_are_read_from_a_volume_of_a_configmap(tmp_path: Path) -> None:
    """Which holds links, and beside them directories that hold the files."""
    held = tmp_path / "..2026_11_26_10_00_00.1"
    held.mkdir()
    (tmp_path / "..data").symlink_to(held.name)
    for file in (ROOT / "resources").glob("*.yaml"):
        (held / file.name).write_text(file.read_text())
        (tmp_path / file.name).symlink_to(f"..data/{file.name}")
    mounted, plain = load_directory(tmp_path), load_directory(ROOT / "resources")
    assert [source.name for source in mounted.sources] == [source.name for source in plain.sources]
    assert len(mounted.sources) == 7
    assert mounted.faults == ()
