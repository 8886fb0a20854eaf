"""contrib/grafana, contrib/prometheus and docs/metrics.md name metrics and labels that the page has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.control.metrics import reference
from pipeline.control.metrics.families import FAMILIES
from tests.control.metrics.test_page import full_page
from tests.support.metrics import promtool, samples

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "contrib" / "grafana" / "gvtap-pipeline.json"
ALERTS = ROOT / "contrib" / "prometheus" / "alerts.yml"
ALERTS_TEST = ALERTS.with_name("alerts_test.yml")
DOCS = ROOT / "docs" / "metrics.md"

SAMPLES = samples(full_page())
NAMES = {name for name, _ in SAMPLES} | {"up"}
LABELS: dict[str, set[str]] = {}
for _, pairs in SAMPLES:
    for label, value in pairs:
        LABELS.setdefault(label, set()).add(value)
FROM_PROMETHEUS = {"instance", "job"}
KEYWORDS = {"by", "without", "and", "or", "unless", "on", "ignoring", "group_left", "group_right", "bool"}

_SELECTOR = re.compile(r"\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_NAME = re.compile(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()")


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in an expression: what is no function, keyword, label, text or duration."""
    bare = _GROUPING.sub(" ", _SELECTOR.sub(" ", expression))
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    return {name for name in _NAME.findall(bare) if name not in KEYWORDS}


def faults(expression: str) -> Iterator[str]:
    """What in an expression is not there in our page."""
    found = metrics_in(expression)
    if not found:
        yield f"{expression}: names no metric"
    yield from (f"{expression}: there is no metric {name}" for name in found - NAMES)
    for group in _GROUPING.findall(expression):
        for label in filter(None, (part.strip() for part in group.split(","))):
            if label not in LABELS.keys() | FROM_PROMETHEUS:
                yield f"{expression}: there is no label {label}"
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expression):
        labels = {key for sample, pairs in SAMPLES if sample == name for key, _ in pairs}
        for label, operator, value in _MATCHER.findall(selector):
            if label in FROM_PROMETHEUS:
                continue
            values = {dict(pairs).get(label, "") for sample, pairs in SAMPLES if sample == name}
            wanted = value.split("|") if operator in ("=~", "!~") else [value]
            if label not in labels or not set(wanted) <= values:
                yield f"{expression}: {name} has no {label} {value}"


def panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return made


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def alert_expressions() -> list[str]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule["expr"] for rule in group["rules"]]


def test_every_expression_names_metrics_and_labels_that_exist() -> None:
    expressions = [*dashboard_expressions(), *alert_expressions()]
    assert len(expressions) > 60
    wrong = [fault for expression in expressions for fault in faults(expression)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "expression, fault",
    [
        ("rate(gvtap_tcp_flow_opened_total[5m])", "no metric gvtap_tcp_flow_opened_total"),
        ("sum by (guests) (gvtap_links)", "no label guests"),
        ('gvtap_tcp_segments_dropped_total{cause="bad_luck"}', "no cause bad_luck"),
        ('gvtap_links{cause="paws"}', "no cause paws"),
        ("time()", "names no metric"),
    ],
)
def test_what_does_not_exist_is_found(expression: str, fault: str) -> None:
    assert any(fault in text for text in faults(expression))


def test_the_dashboard_shows_every_kind_of_drop() -> None:
    shown = {name for expression in dashboard_expressions() for name in metrics_in(expression)}
    drops = {reference.sample_name(family.name, family.kind) for family in FAMILIES}
    assert {name for name in drops if name.endswith("_dropped_total")} <= shown


def test_panels_do_not_overlap_and_have_a_title_of_their_own() -> None:
    fields: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not mine & fields, panel["title"]
        fields |= mine
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels()}) == len(panels())
    for panel in panels():
        ids = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(ids)) == len(ids), panel["title"]


def test_promtool_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    variables = {"$__rate_interval": "5m", "$instance": ".*"}
    rules = []
    for number, expression in enumerate(dashboard_expressions()):
        for variable, value in variables.items():
            expression = expression.replace(variable, value)
        rules.append({"record": f"panel:{number}", "expr": expression})
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", str(file))


def test_promtool_understands_the_alerts() -> None:
    printed = promtool("check", "rules", str(ALERTS))
    assert f"SUCCESS: {len(alert_expressions())} rules found" in printed


def test_each_alert_fires_when_it_must_and_only_then() -> None:
    printed = promtool("test", "rules", str(ALERTS_TEST))
    assert printed.rstrip().endswith("SUCCESS"), printed


def test_every_alert_has_a_case_that_fires() -> None:
    (case,) = yaml.safe_load(ALERTS_TEST.read_text())["tests"]
    fires = {test["alertname"] for test in case["alert_rule_test"] if test["exp_alerts"]}
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    assert fires == {rule["alert"] for rule in group["rules"]}
    series = {entry["series"].partition("{")[0] for entry in case["input_series"]}
    assert series <= NAMES


def test_the_documentation_has_the_tables_as_they_are() -> None:
    text = DOCS.read_text()
    for table in reference.tables().split("\n\n"):
        assert table in text, "run: python -m pipeline.control.metrics.reference"


def test_the_documentation_names_no_metric_that_is_not_there() -> None:
    families = {family.name for family in FAMILIES} | {name.rpartition("_")[0] for name in NAMES}
    named = set(re.findall(r"`(gvtap_\w+|process_\w+)", DOCS.read_text()))
    assert named
    assert named <= NAMES | families, named - NAMES - families
