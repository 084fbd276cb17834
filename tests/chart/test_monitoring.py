"""Alerts and dashboard are about metrics that exist, and each alert is explained."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from drystone_operator.names import COMPONENTS_WITH_METRICS
from drystone_operator.plan.failover import Step
from tests.chart.chart import CHART, metrics_documented, render, values_of
from tests.unit.source_tree import ROOT

ALERTS = [
    rule
    for group in yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((CHART / "dashboards" / "drystone.json").read_text())
PAGE = (ROOT / "docs" / "alerts.md").read_text()
OF_OTHERS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def queries():
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def parsed(expression):
    parser = pytest.importorskip("promql_parser")
    # Grafana's own variables stand for a time and a pattern.
    plain = expression.replace("$__rate_interval", "5m").replace("$cluster", ".+")
    return parser.parse(plain)


def metrics(expression):
    words = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|without) *\([^)]*\)', " ", expression)
    return set(re.findall(r"\b(drystone_[a-z_]+|up|process_[a-z_]+)\b", words))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_is_an_expression_over_metrics_that_exist(rule):
    parsed(rule["expr"])
    used = metrics(rule["expr"])
    known = metrics_documented() | OF_OTHERS
    assert used
    assert {SUFFIX.sub("", name) for name in used} <= known


@pytest.mark.parametrize("expression", queries())
def test_a_panel_shows_metrics_that_exist(expression):
    parsed(expression)
    used = metrics(expression)
    assert used
    assert {SUFFIX.sub("", name) for name in used} <= metrics_documented() | OF_OTHERS


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_where_to_read_on(rule):
    assert set(rule) == {"alert", "expr", "for", "severity", "summary"}
    assert rule["severity"] in {"warning", "critical"}
    assert rule["summary"].endswith(".")
    _, found, rest = PAGE.partition(f"\n## {rule['alert']}\n")
    assert found
    assert len(rest.partition("\n## ")[0].strip()) > 100


def test_every_explanation_is_of_an_alert_that_exists():
    explained = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)
    assert explained == [rule["alert"] for rule in ALERTS]


def test_the_rules_that_are_installed_are_those_of_the_file():
    rendered = render(values_of("cluster")).one("PrometheusRule")
    rules = [rule for group in rendered["spec"]["groups"] for rule in group["rules"]]
    assert [(rule["alert"], rule["expr"].strip()) for rule in rules] == [
        (rule["alert"], rule["expr"].strip()) for rule in ALERTS
    ]
    for rule, source in zip(rules, ALERTS, strict=True):
        assert rule["annotations"]["summary"] == source["summary"]
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page.endswith("/docs/alerts.md")
        assert anchor == source["alert"].lower()
        assert rule["labels"] == {"severity": source["severity"], "team": "storage"}


def test_panels_have_numbers_and_places_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)


def test_the_dashboard_is_found_by_grafana():
    config = render(values_of("cluster")).one("ConfigMap", "drystone-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["drystone.json"]) == DASHBOARD


def test_nothing_of_the_prometheus_operator_is_made_unasked():
    kinds = {one["kind"] for one in render().objects}
    assert not kinds & {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


def expression(alert):
    (rule,) = [rule for rule in ALERTS if rule["alert"] == alert]
    return rule["expr"]


def test_a_node_that_is_away_held_or_back_is_no_failover_that_waits():
    (steps,) = re.findall(r'step=~"([^"]+)"', expression("DrystoneFailoverWaits"))
    known = {step.value for step in Step}
    assert set(steps.split("|")) == known - {"Well", "Away", "Returning", "Held"}


def test_alerts_about_processes_ask_only_for_those_that_serve_metrics():
    (asked,) = re.findall(r'component=~"([^"]+)"', expression("DrystoneProcessMissing"))
    assert set(asked.split("|")) == set(COMPONENTS_WITH_METRICS) - {"manager"}
    (others,) = re.findall(r'component=~"([^"]+)"', expression("DrystonePodsMissing"))
    assert set(others.split("|")) == {"etcd", "manager", "csi-controller", "csi-node"}


def test_where_only_volumes_are_used_no_leader_is_missed():
    asked = expression("DrystoneNoManagerLeads")
    assert "absent(" not in asked
    assert asked.count("by (drystone_io_cluster)") == 2
