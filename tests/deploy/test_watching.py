"""What operators watch the gateway with: alerts, the dashboard, the collector. Parsed and tried by Prometheus's own tool."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.observability.metrics import TABLE
from tests.deploy.promql import DASHBOARDS, DEPLOY, RULES, alerts, dashboard_queries, metric_names, panels, rules
from tests.tools import tool

ROOT = DEPLOY.parent
PROMETHEUS = DEPLOY / "prometheus"
RULE_TESTS = PROMETHEUS / "gateway.rules.test.yml"
GRAFANA = DEPLOY / "grafana"

TO_COME = {"idempotency_replays_total"}
"""Metrics of parts that are being built: their names are agreed on."""

METRICS = {row.name for row in TABLE} | TO_COME


def promtool(*arguments: str, directory: Path = PROMETHEUS) -> tuple[int, str]:
    """The tool's exit status, and what it said."""
    command = [tool("promtool"), *arguments]
    told = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    return told.returncode, told.stdout + told.stderr


def test_prometheus_takes_its_configuration_and_the_rules_in_it() -> None:
    status, told = promtool("check", "config", "prometheus.yml")
    assert status == 0, told


def test_each_alert_fires_when_it_should_and_not_when_it_should_not() -> None:
    status, told = promtool("test", "rules", RULE_TESTS.name)
    assert status == 0, told


def test_each_alert_has_a_course_of_events_of_either_kind() -> None:
    tried = [check for test in yaml.safe_load(RULE_TESTS.read_text())["tests"] for check in test["alert_rule_test"]]
    names = {rule["alert"] for rule in alerts()}
    assert {check["alertname"] for check in tried if check["exp_alerts"]} == names
    assert {check["alertname"] for check in tried if not check["exp_alerts"]} == names


def test_the_rules_tests_notice_an_alert_that_never_fires(tmp_path: Path) -> None:
    """So that the green above means something."""
    broken = RULES.read_text().replace("expr: jwks_age_seconds > 7200", "expr: jwks_age_seconds > 7200000")
    assert broken != RULES.read_text()
    (tmp_path / RULES.name).write_text(broken)
    courses = yaml.safe_load(RULE_TESTS.read_text())
    courses["tests"] = [test for test in courses["tests"] if test["name"].startswith("GatewayKeysStale")]
    (tmp_path / RULE_TESTS.name).write_text(yaml.safe_dump(courses))
    status, told = promtool("test", "rules", RULE_TESTS.name, directory=tmp_path)
    assert status != 0
    assert "GatewayKeysStale" in told


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_each_alert_says_how_bad_it_is_and_leads_to_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("critical", "warning")
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-")) for heading in headings}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.name)
def test_prometheus_can_read_every_query_of_a_dashboard(dashboard: Path, tmp_path: Path) -> None:
    """As rules of a group: promtool has no other way to read a query alone."""
    queries = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(dashboard_queries(dashboard))]
    assert len(queries) > 40
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": queries}]}))
    status, told = promtool("check", "rules", str(file))
    assert status == 0, told


def test_rules_and_dashboards_name_metrics_that_there_are() -> None:
    of_rules = {name for rule in rules() for name in metric_names(rule["expr"])}
    of_dashboards = {
        name for dashboard in DASHBOARDS for _, query in dashboard_queries(dashboard) for name in metric_names(query)
    }
    assert of_rules - METRICS == set()
    assert of_dashboards - METRICS == set()
    assert METRICS - of_dashboards == set(), "a metric that no panel shows"


def test_names_of_metrics_are_found_in_a_query() -> None:
    rate = 'sum by (le, route) (rate(a_seconds_bucket{x=~"b.*|/c"}[5m]))'
    query = f"{rate} / on() group_left() (d_total > 0) and up unless e:f:g offset 5m"
    assert metric_names(query) == {"a_seconds", "d_total"}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.name)
def test_panels_have_a_title_a_query_and_a_place_of_their_own(dashboard: Path) -> None:
    content = json.loads(dashboard.read_text())
    ids = [panel["id"] for panel in content["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["targets"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))
    for one, other in combinations([panel["gridPos"] for panel in content["panels"]], 2):
        assert _apart(one, other), (one, other)


def _apart(one: dict[str, int], other: dict[str, int]) -> bool:
    beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return beside or below


def test_the_dashboards_answer_an_operators_questions_in_their_order() -> None:
    rows = [panel["title"] for panel in json.loads(DASHBOARDS[0].read_text())["panels"] if panel["type"] == "row"]
    asked = [re.split(r"(?<=\?)", row)[0] for row in rows]
    assert asked == ["Is it healthy?", "Since when?", "What is slow?", "Why?", "Why?", "For whom?"]


def test_grafana_finds_the_data_sources_that_it_is_told_of() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "gateway.yml").read_text())["datasources"]
    known = {source["uid"] for source in sources}
    led_to = {
        led["datasourceUid"] for source in sources for led in source.get("jsonData", {}).get("exemplarTraceIdDestinations", [])
    }
    assert led_to == {"jaeger"}
    assert led_to <= known
    variables = json.loads(DASHBOARDS[0].read_text())["templating"]["list"]
    assert {variable["current"]["value"] for variable in variables if variable["type"] == "datasource"} <= known


def test_the_collectors_pipelines_are_made_of_what_it_defines() -> None:
    """No collector runs here; this is what it checks first when it starts."""
    collector = yaml.safe_load((DEPLOY / "otel-collector.yml").read_text())
    for pipeline in collector["service"]["pipelines"].values():
        assert pipeline.keys() == {"receivers", "processors", "exporters"}
        for kind, names in pipeline.items():
            assert set(names) == collector[kind].keys()
    assert set(collector["service"]["extensions"]) == collector["extensions"].keys()
    first, *_ = collector["service"]["pipelines"]["traces"]["processors"]
    assert first == "memory_limiter"
