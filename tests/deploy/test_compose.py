"""compose.yaml: valid by the Compose Specification, hardened, and free of secrets. No engine runs it here."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from gateway.settings import VARIABLES
from tests.deploy.dockerfile import ROOT
from tests.tools import module, tool

COMPOSE = ROOT / "compose.yaml"
WITHOUT_A_PROGRAM_TO_ASK_WITH = {"collector", "jaeger"}
PROFILES = {
    None: {"postgres", "redis", "migrate", "gateway"},
    "nginx": {"nginx"},
    "pgbouncer": {"pgbouncer"},
    "observability": {"prometheus", "grafana", "collector", "jaeger"},
}


def composed() -> dict[str, Any]:
    """The file as Compose reads it: anchors merged, variables filled in."""
    text = re.sub(
        r"\$\{\w+(?::-([^}]*)|:\?[^}]*)?\}", lambda found: "given" if found[1] is None else found[1], COMPOSE.read_text()
    )
    content: dict[str, Any] = yaml.safe_load(text)
    return content


SERVICES: dict[str, dict[str, Any]] = composed()["services"]
every_service = pytest.mark.parametrize("name", SERVICES)


def test_it_is_valid_by_the_compose_specification() -> None:
    compose = module("compose_spec").PyCompose.from_json(json.dumps(composed()))
    compose.validate()
    assert set(compose.service_names()) == set(SERVICES)


def test_a_misspelt_key_would_be_noticed() -> None:
    wrong = composed()
    wrong["services"]["nginx"]["read_onl"] = True
    with pytest.raises(ValueError, match="read_onl"):
        module("compose_spec").PyCompose.from_json(json.dumps(wrong))


def test_a_linter_finds_nothing_grave_in_it() -> None:
    told = subprocess.run([tool("compose-lint"), str(COMPOSE)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stdout


def test_its_profiles_hold_what_they_say() -> None:
    found: dict[str | None, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service.get("profiles", [None]):
            found.setdefault(profile, set()).add(name)
    assert found == PROFILES


@every_service
def test_a_service_may_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() == {"memory", "pids"}


@every_service
def test_a_service_is_pinned_and_can_be_asked_how_it_is(name: str) -> None:
    service = SERVICES[name]
    _, colon, tag = service["image"].rpartition(":")
    assert colon
    assert tag != "latest"
    assert ("healthcheck" in service) == (name not in WITHOUT_A_PROGRAM_TO_ASK_WITH)


@every_service
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        asked = SERVICES[needed].get("healthcheck", {"disable": True})
        if needed == "migrate":
            assert how == {"condition": "service_completed_successfully"}
        else:
            assert how["condition"] == ("service_started" if asked.get("disable") else "service_healthy")


def test_no_secret_is_written_in_it() -> None:
    """What is one comes from the environment, and must: there is no default to forget."""
    text = COMPOSE.read_text()
    assert set(re.findall(r"\$\{(\w*PASSWORD\w*)[^}]*\}", text)) == {"POSTGRES_PASSWORD"}
    assert "${POSTGRES_PASSWORD:?" in text
    written = re.findall(r"(?:PASSWORD|SECRET|TOKEN|KEY)\w*:[ ]*(\S+)", text)
    assert [value for value in written if not value.startswith("${")] == []
    assert re.findall(r"://\w+:([^@\s]+)@", text) == ["${POSTGRES_PASSWORD}"] * 2


def test_the_gateways_settings_in_it_exist() -> None:
    known = {variable.name for variable in VARIABLES}
    for name in ("gateway", "migrate"):
        assert {each for each in SERVICES[name]["environment"] if not each.startswith("OTEL_")} <= known


def test_the_gateway_takes_every_setting_but_those_of_the_image() -> None:
    settable = {variable.name for variable in VARIABLES} - {"HOST", "PORT", "RESOURCES_DIR"}
    assert settable - SERVICES["gateway"]["environment"].keys() == set()


def test_files_that_it_mounts_are_there() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    ours = {mount for mount in mounts if mount.startswith("./")} - {"./deploy/tls"}
    assert len(ours) == 6
    assert [mount for mount in ours if not (ROOT / mount).exists()] == []


def test_grafana_finds_the_dashboards_where_they_are_mounted() -> None:
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/gateway.yml").read_text())["providers"][0]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


def test_the_gateway_believes_the_address_that_nginx_has() -> None:
    assert SERVICES["gateway"]["environment"]["TRUSTED_PROXIES"] == SERVICES["nginx"]["networks"]["edge"]["ipv4_address"]


def test_what_is_for_the_machine_alone_is_published_to_it_alone() -> None:
    published = {name: port for name, service in SERVICES.items() for port in service.get("ports", [])}
    assert {name for name, port in published.items() if not port.startswith("127.0.0.1:")} == {"nginx"}
