"""The PromQL that operators are given: in rules and in dashboards, and the names of metrics in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "gateway.rules.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))

PROMETHEUS_OWN = {"up", "ALERTS"}
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool"}
GRAFANA = {"$__rate_interval": "5m", "$__range": "1h", "$instance": ".*", "$route": ".*"}


def rules() -> list[dict[str, Any]]:
    """Every rule: those that record and those that alert."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """A dashboard's panels, without the rows that only part them."""
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def dashboard_queries(dashboard: Path) -> Iterator[tuple[str, str]]:
    """Each query with the title of where it stands, Grafana's variables filled in."""
    content = json.loads(dashboard.read_text())
    for panel in panels(dashboard):
        yield from ((panel["title"], _filled(target["expr"])) for target in panel["targets"])
    yield from ((note["name"], _filled(note["expr"])) for note in content["annotations"]["list"])
    for variable in content["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"].removeprefix("label_values(").rpartition(",")[0]


def _filled(query: str) -> str:
    for variable, value in GRAFANA.items():
        query = query.replace(variable, value)
    return query


def metric_names(query: str) -> set[str]:
    """The metrics that a query reads, a histogram by its own name; not what rules record, which has colons."""
    query = re.sub(r'"[^"]*"', "", query)
    query = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", query)
    query = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", query)
    names = set(re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()", query))
    named = {name for name in names if ":" not in name and name not in WORDS | PROMETHEUS_OWN}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
