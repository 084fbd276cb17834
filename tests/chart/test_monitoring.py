"""Alerts and dashboard are about metrics that exist, and each alert is explained."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from drystone_operator.names import COMPONENTS_WITH_METRICS, LABEL_COMPONENT
from drystone_operator.plan.failover import Step
from drystone_operator.resources.children import children
from tests.chart import promql
from tests.chart.chart import CHART, metrics_documented, render, values_of
from tests.operator.wanted import ETCD, build
from tests.unit.source_tree import ROOT

ALERTS = [
    rule
    for group in yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((CHART / "dashboards" / "drystone.json").read_text())
PAGE = (ROOT / "docs" / "alerts.md").read_text()
OF_OTHERS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
"""Of Prometheus itself, and of the client library in each of our processes."""

OF_THE_OPERATOR = {"etcd", "csi-controller", "csi-node", "fuse"}
"""Components whose pods the operator counts: they may be missing where nobody is scraped."""
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def assert_known(query):
    """That it can be parsed, and reads only what some process gives."""
    used = promql.metrics(query)
    assert used
    strangers = {SUFFIX.sub("", name) for name in used} - metrics_documented() - OF_OTHERS
    assert not strangers


def queries():
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_is_an_expression_over_metrics_that_exist(rule):
    assert_known(rule["expr"])


@pytest.mark.parametrize("expression", queries())
def test_a_panel_shows_metrics_that_exist(expression):
    assert_known(expression)


COUNTER = re.compile(r"(_total|_bucket|_sum|_count)$")


@pytest.mark.parametrize("query", [*queries(), *(rule["expr"] for rule in ALERTS)])
def test_a_rate_is_one_of_a_counter(query):
    """Of a gauge that falls it would be taken for a counter that began anew, and rise."""
    for name in re.findall(r"\b(?:rate|irate|increase)\(\s*(\w+)", query):
        assert COUNTER.search(name), name


def test_a_misspelt_query_or_metric_would_be_found():
    for broken in ("sum by (x) (up", "rat(up[5m])", "up{component=server}", "rate(up)"):
        with pytest.raises(ValueError, match=r"."):
            promql.parse(broken)
    with pytest.raises(AssertionError):
        assert_known("sum(drystone_volume_reads_totals)")
    with pytest.raises(AssertionError):
        assert_known("sum(kube_pod_info)")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_a_summary_names_labels_that_its_result_has(rule):
    named = set(re.findall(r"\$labels\.(\w+)", rule["summary"]))
    kept = promql.left(rule["expr"])
    assert kept is None or named <= kept


def test_queries_ask_for_components_that_there_are():
    components = set(COMPONENTS_WITH_METRICS) | OF_THE_OPERATOR
    for query in [*queries(), *(rule["expr"] for rule in ALERTS)]:
        assert promql.matched(query, "component") <= components


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


def test_labels_of_the_operators_figures_are_not_replaced_by_those_of_its_pod():
    """Prometheus renames a label that the target has too: the alerts would never find it."""
    asked = promql.matched(expression("DrystonePodsMissing"), "component")
    monitor = render(values_of("cluster")).one("ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert "operator" not in asked
    assert endpoint["relabelings"] == [{"targetLabel": "component", "replacement": "operator"}]
    assert endpoint["honorLabels"] is True


def test_a_cluster_of_the_same_name_in_another_namespace_is_another_one():
    for rule in ALERTS:
        for labels in re.findall(r"by \(([^)]*cluster[^)]*)\)", rule["expr"]):
            assert "namespace" in labels, rule["alert"]


def test_alerts_about_a_cluster_ask_for_conditions_that_there_are():
    said = (ROOT / "docs" / "operator.md").read_text()
    for rule in ALERTS:
        for label in ("condition", "reason"):
            words = promql.matched(rule["expr"], label)
            assert {word for word in words if f"`{word}`" not in said} == set()


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


def test_the_alert_about_anything_critical_has_a_line_for_each_code_that_is():
    folder = ROOT / "storaged/drystone_storaged/manager/issues"
    source = "\n".join(path.read_text() for path in sorted(folder.glob("*.py")))
    critical = set(re.findall(r'Problem\(\s*"([a-z_]+)",\s*Severity\.CRITICAL', source))
    assert len(critical) >= 4
    part = PAGE.partition("\n## DrystoneClusterCritical\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", part, re.MULTILINE)) == critical


def test_a_node_that_is_away_held_or_back_is_no_failover_that_waits():
    (steps,) = re.findall(r'step=~"([^"]+)"', expression("DrystoneFailoverWaits"))
    known = {step.value for step in Step}
    assert set(steps.split("|")) == known - {"Well", "Away", "Returning", "Held"}


def test_alerts_about_processes_ask_only_for_those_that_serve_metrics():
    asked = promql.matched(expression("DrystoneProcessMissing"), "component")
    assert asked == set(COMPONENTS_WITH_METRICS) - {"manager", "fuse"}
    others = promql.matched(expression("DrystonePodsMissing"), "component")
    assert others == OF_THE_OPERATOR | {"manager"}


def test_every_process_of_ours_has_a_port_that_the_pod_monitor_finds():
    (endpoint,) = render(values_of("cluster")).one("PodMonitor")["spec"]["podMetricsEndpoints"]
    for one in children(build(ETCD, fuse_pods=True), {"n1": "rack1"}):
        if one["kind"] not in ("DaemonSet", "StatefulSet", "Deployment"):
            continue
        containers = one["spec"]["template"]["spec"]["containers"]
        ports = [port for each in containers for port in each.get("ports", ())]
        found = [p["containerPort"] for p in ports if p["name"] == endpoint["port"]]
        # etcd is not ours, and has its metrics on the port for its clients.
        wanted = one["metadata"]["labels"][LABEL_COMPONENT] != "etcd"
        assert len(found) == wanted, one["metadata"]["name"]


def test_every_workload_of_a_cluster_has_an_alert_about_its_pods():
    asked = promql.matched(expression("DrystoneProcessMissing"), "component")
    asked |= promql.matched(expression("DrystonePodsMissing"), "component")
    objects = children(build(ETCD, fuse_pods=True), {"n1": "rack1"})
    kinds = ("DaemonSet", "StatefulSet", "Deployment")
    workloads = [one for one in objects if one["kind"] in kinds]
    assert len(workloads) == len(asked)
    assert {one["metadata"]["labels"][LABEL_COMPONENT] for one in workloads} == asked


def test_where_only_volumes_are_used_no_leader_is_missed():
    asked = expression("DrystoneNoManagerLeads")
    assert "absent(" not in asked
    assert asked.count("by (namespace, drystone_io_cluster)") == 2
