"""Metrics of controller, agent and switch: conventions, values, and the dashboard and alerts that name them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from host_agent.daemon.metrics import agent_metrics
from host_agent.http_endpoint import HttpEndpoint, Listen
from host_agent.metrics_route import metrics_route
from host_agent.protocol.agent_header import AgentIdentity
from host_agent.protocol.stamp import Flags, Stage, Stamp
from mfs_ctrl import policies
from mfs_ctrl.control_loop import ControlLoop
from mfs_ctrl.counters import COMPLETION, DISCARDED, LAXITY, PORT_LEVEL, CompletionCell, Count, cells_of_ports
from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.errors import SessionError
from mfs_ctrl.fabric import SwitchSpec
from mfs_ctrl.metrics import controller_metrics, switch_metrics
from mfs_ctrl.service import Described, Settings, run
from soft_switch import metrics as soft_switch_metrics
from soft_switch.realtime.driver import Driver
from soft_switch.switch import Switch
from tests.support.controller import (
    MILLISECOND_NS,
    TOPOLOGY,
    controller,
    controller_thread,
    eventually,
    pass_through,
    serving,
)
from topologies.processes import Process, free_address

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
STATUS: dict[str, Any] = {
    "interface": "eth0",
    "carrier": "option",
    "rate_bps": 100_000_000_000,
    "up_s": 3.5,
    "policy": {"name": "mfs", "controller": "answers"},
    "counters": {
        **dict.fromkeys(("too_long", "segmented", "failed", "not_tcp", "unready", "removed", "malformed", "learnt"), 0),
        "stamped": 10,
        "no_room": 3,
        "read": 5,
        "level_packets": [0, 1, 0, 0, 0, 0, 0, 9],
        "level_bytes": [0, 100, 0, 0, 0, 0, 0, 900],
    },
    "hold": {"held": 1, "kicks": 0, "without_scale": 0},
    "registrations": {"sent": 0, "unresolved": 0},
    "gate": {"waiting": 0, "in_flight_bytes": 0},
    "flows": [{"stage": "P2D"}, {"stage": "P2D"}],
}
SWITCH = "leaf1"
AGENT = AgentIdentity("02:00:00:00:01:01", "eth0", "option", "0.2.0")


def values(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.fixture(scope="module")
def loop() -> Iterator[ControlLoop]:
    with serving() as (switch, server):
        made = ControlLoop(controller(server, tune=True), server.address, SWITCH)
        made.start(0)
        for number in range(3):
            late = Stamp(Stage.P2D, Flags.FIRST | Flags.LAST, batch=1, flow=number, slack_us=-9, remaining=4)
            pass_through(switch, late if number == 2 else Stamp(**{**vars_of(late), "slack_us": 3000}))
        made.tick(1000 * MILLISECOND_NS)
        made.discards["no route"] = 2
        yield made
        made.controller.stop()


def vars_of(stamp: Stamp) -> dict[str, Any]:
    return {name: getattr(stamp, name) for name in stamp.__dataclass_fields__}


@pytest.fixture(scope="module")
def exported(loop: ControlLoop) -> list[Metric]:
    """Everything that the three processes may export."""
    session = loop.controller.session
    index, _ = session.ensure_pipeline(loop.controller.artifact)
    wanted = {COMPLETION: None, DISCARDED: None, LAXITY: None, PORT_LEVEL: cells_of_ports(TOPOLOGY.ports)}
    cells = session.read_counters(index, wanted)
    switch = Switch()
    switch.add_port(1, 1_000_000)
    driver = Driver(switch, {1: _Silent()})  # type: ignore[dict-item]
    families = [
        *controller_metrics([loop], [AGENT], "0.2.0"),
        *switch_metrics({SWITCH: cells}),
        *agent_metrics(STATUS, "0.2.0"),
        *soft_switch_metrics.switch_metrics(driver),
    ]
    driver.close()
    return families


class _Silent:
    interface, unfinished, oversized, unsent, condition = "veth1", 0, 2, 0, "up"

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0)

    def fileno(self) -> int:
        return self._descriptor

    def lost(self) -> int:
        return 0


def test_names_and_units_follow_the_convention(exported: list[Metric]) -> None:
    names = [family.name for family in exported]
    assert len(set(names)) == len(names)
    for family in exported:
        assert re.fullmatch(r"(mfs_controller|mfs_switch|mfs_agent|soft_switch)(_[a-z0-9]+)*", family.name), family.name
        assert family.documentation.endswith("."), family.name
        # A counter's name gets _total from the library; units are base units, in the plural, at the end.
        assert not family.name.endswith(("_total", "_count", "_ms", "_us", "_bps", "_percent")), family.name
        for sample in family.samples:
            assert sample.value >= 0 or family.type == "gauge", sample


def test_the_openmetrics_parser_of_prometheus_reads_them(exported: list[Metric]) -> None:
    class Collector:
        def collect(self) -> list[Metric]:
            return exported

    registry = CollectorRegistry()
    registry.register(Collector())  # type: ignore[arg-type]
    text = openmetrics.generate_latest(registry).decode()
    read = list(parse_openmetrics(text))
    assert {family.name for family in read} == {family.name for family in exported}
    assert values(read) == values(exported)


def test_promtool_finds_nothing_to_mend(exported: list[Metric]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's prometheus) is not installed")
    with (
        HttpEndpoint("0", {"/metrics": metrics_route(lambda: exported)}) as endpoint,
        urllib.request.urlopen(f"{endpoint.url}/metrics", timeout=60) as answer,
    ):
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text = answer.read()
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_values_are_those_of_the_switch_and_the_tick(exported: list[Metric], loop: ControlLoop) -> None:
    found = values(exported)
    assert (
        found[of("mfs_controller_connected", switch=SWITCH)] == found[of("mfs_controller_primary", switch=SWITCH)] == 1
    )
    assert found[of("mfs_controller_entries_written_total", switch=SWITCH, operation="insert")] > 10
    assert found[of("mfs_controller_agents", carrier="option")] == 1
    assert found[of("mfs_controller_condition", switch=SWITCH, condition="rates")] == 0
    port = str(TOPOLOGY.ports[0])
    assert (
        found[of("mfs_controller_port_bias_code", switch=SWITCH, port=port)]
        == loop.controller.biases[TOPOLOGY.ports[0]]
    )
    completed = {
        labels["in_time"]: value
        for (name, pairs), value in found.items()
        if name == "mfs_switch_completed_flows_total" and value and (labels := dict(pairs))["stage"] == "P2D"
    }
    assert completed == {"true": 2, "false": 1}
    # 3,000 us are in the octave from 2^11 to 2^12.
    assert found[of("mfs_switch_completion_slack_seconds_bucket", switch=SWITCH, stage="P2D", le="0.002048")] == 0
    assert found[of("mfs_switch_completion_slack_seconds_bucket", switch=SWITCH, stage="P2D", le="0.004096")] == 2
    assert found[of("mfs_switch_completion_overdue_seconds_bucket", switch=SWITCH, stage="P2D", le="1.6e-05")] == 1
    assert (
        found[of("mfs_agent_unstamped_packets_total", interface="eth0", reason="other TCP options leave no room")] == 3
    )
    assert found[of("mfs_agent_flows", interface="eth0", stage="P2D")] == 2
    assert found[of("soft_switch_port_up", port="1", interface="veth1")] == 1
    assert found[of("soft_switch_lost_frames_total", port="1", reason="dropped as longer than the MTU")] == 2


def test_a_switch_that_does_not_answer_is_reported_as_down() -> None:
    cells = {PORT_LEVEL: {8: Count(1, 100)}}
    found = values(switch_metrics({"leaf1": None, "leaf2": cells}))
    assert (found[of("mfs_switch_up", switch="leaf1")], found[of("mfs_switch_up", switch="leaf2")]) == (0, 1)
    assert found[of("mfs_switch_bytes_total", switch="leaf2", port="1", level="0")] == 100
    assert {dict(labels)["switch"] for name, labels in found if name != "mfs_switch_up"} == {"leaf2"}


def test_histograms_count_each_flow_once_in_ascending_buckets() -> None:
    cells = {CompletionCell(Stage.P2D, 3, False, octave).index: Count(octave, 0) for octave in range(32)}
    [histogram] = [
        family
        for family in switch_metrics({SWITCH: {COMPLETION: cells}})
        if family.name == "mfs_switch_completion_slack_seconds"
    ]
    buckets = [sample for sample in histogram.samples if sample.labels["stage"] == "P2D"]
    assert [sample.value for sample in buckets] == sorted(sample.value for sample in buckets)
    assert buckets[-1].labels["le"] == "+Inf"
    assert buckets[-1].value == sum(range(32))
    bounds = [float(sample.labels["le"]) for sample in buckets]
    assert bounds == sorted(bounds)


def answered(caplog: pytest.LogCaptureFixture, path: str) -> str:
    """What the controller whose log this is answers."""
    matched = re.search(r"serving the policy at (http://127\.0\.0\.1:\d+)/policy", caplog.text)
    assert matched is not None
    with urllib.request.urlopen(matched[1] + path, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def test_a_running_controller_serves_metrics_health_and_status(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mfs_ctrl")

    get = functools.partial(answered, caplog)

    def up() -> float:
        return values(text_string_to_metric_families(get("/metrics")))[of("mfs_switch_up", switch=name)]

    with contextlib.ExitStack() as switch:
        _, server = switch.enter_context(serving())
        name = server.address
        with controller_thread(name, 1, TOPOLOGY, policies.mfs(), listen=Listen("0")):
            eventually(lambda: "in force" in caplog.text)
            eventually(lambda: json.loads(get("/status"))["switches"][name]["ticks"] > 2)
            status = json.loads(get("/status"))["switches"][name]
            assert (status["address"], status["primary"], status["conditions"]) == (server.address, True, {})
            assert get("/healthz") == get("/readyz") == "ok\n"
            # A busy machine may take longer than a read may take.
            eventually(lambda: up() == 1)
            found = values(text_string_to_metric_families(get("/metrics")))
            assert found[of("mfs_controller_ticks_total", switch=name)] > 2
            assert found[of("process_resident_memory_bytes")] > 1e6
            switch.close()
            eventually(lambda: json.loads(get("/status"))["switches"][name]["connected"] is False)
            with pytest.raises(urllib.error.HTTPError, match="503"):
                get("/readyz")
            assert up() == 0


def test_a_switch_is_shown_while_the_first_connection_to_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mfs_ctrl")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"127.0.0.1:{silent.getsockname()[1]}"
        spec = SwitchSpec("", name, 1, TOPOLOGY, SwitchParameters(), policies.mfs())
        described, settings, stop = Described(lambda: [spec]), Settings(listen=Listen("0")), threading.Event()
        refused: list[SessionError] = []

        def controlling() -> None:
            try:
                run(described, settings, must_connect=True, stop=stop)
            except SessionError as error:
                refused.append(error)

        thread = threading.Thread(target=controlling)
        thread.start()
        eventually(lambda: "serving the policy at" in caplog.text)
        shown = json.loads(answered(caplog, "/status"))["switches"]
        assert (list(shown), shown[name]["connected"], thread.is_alive()) == ([name], False, True)
        thread.join(60)
    assert refused
    assert not thread.is_alive()


def exprs() -> list[tuple[str, str]]:
    """The queries of the dashboard and of the alerts, each with where it stands."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]
    alerts = (MONITORING / "alerts.yml").read_text("utf-8")
    return found + [("alerts.yml", expr) for expr in re.findall(r"^ +expr: (.+)$", alerts, re.M)]


def test_every_query_of_dashboard_and_alerts_names_exported_metrics_and_labels(exported: list[Metric]) -> None:
    samples: dict[str, set[str]] = {"up": {"job", "instance"}}
    for family in exported:
        for sample in family.samples:
            samples.setdefault(sample.name, set()).update(sample.labels)
    assert len(exprs()) > 15
    for place, expr in exprs():
        named = re.findall(r"\b((?:mfs|soft_switch)_[a-z0-9_]+|up)\b", re.sub(r'"[^"]*"', "", expr))
        assert named, (place, expr)
        assert set(named) <= samples.keys(), (place, expr)
        known = set().union(*(samples[name] for name in named)) | {"job", "instance", "le"}
        grouped = [word for words in re.findall(r"by \(([^)]*)\)", expr) for word in re.split(r", *", words)]
        assert set(grouped) <= known, (place, expr)


def test_prometheus_scrapes_all_metrics_and_answers_the_dashboards_queries(
    exported: list[Metric], tmp_path: Path
) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus (Debian's package) is not installed")

    def grown() -> Iterator[Metric]:
        """Counters must grow for a rate to have a value."""
        rounds.append(1)
        for family in exported:
            made = Metric(family.name, family.documentation, family.type)
            grow = len(rounds) if family.type in ("counter", "histogram") else 1
            made.samples = [sample._replace(value=sample.value * grow) for sample in family.samples]
            yield made

    rounds: list[int] = []
    with HttpEndpoint("0", {"/metrics": metrics_route(grown)}) as endpoint:
        target = endpoint.url.removeprefix("http://")
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{MONITORING / 'alerts.yml'}]\n"
            f"scrape_configs: [{{job_name: mfs-ctrl, static_configs: [{{targets: ['{target}']}}]}}]\n",
            "utf-8",
        )
        address = free_address()
        words = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        words.append(f"--web.listen-address={address}")

        def ask(path: str) -> Any:
            with urllib.request.urlopen(f"http://{address}/api/v1/{path}", timeout=10) as answer:
                return json.load(answer)["data"]

        def answered(expr: str) -> bool:
            return bool(ask("query?" + urllib.parse.urlencode({"query": expr}))["result"])

        with Process(words, lambda out: "Server is ready" in out):
            eventually(lambda: len(rounds) > 3)
            [scraped] = ask("targets")["activeTargets"]
            assert (scraped["health"], scraped["lastError"]) == ("up", "")
            # Prometheus asks for OpenMetrics, and has all samples.
            for family in exported:
                assert answered(family.samples[0].name), family.name
            for place, expr in exprs():
                if place != "alerts.yml":
                    # What compares shows only what is wrong.
                    assert answered(re.sub(r" (>|==) 0$", "", expr)), (place, expr)
            eventually(
                lambda: {rule["health"] for group in ask("rules")["groups"] for rule in group["rules"]} == {"ok"}
            )


def test_every_metric_is_in_the_reference_with_type_and_labels(exported: list[Metric]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([a-z_]+)` \| ([a-z]+) \| ([a-z_, ]*) \|", page, re.M))
    found = set()
    for family in exported:
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found.add((family.name + suffix, family.type, ", ".join(labels)))
    assert found == listed


def test_promtool_accepts_the_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's prometheus) is not installed")
    done = subprocess.run(
        [promtool, "check", "rules", MONITORING / "alerts.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [promtool, "test", "rules", MONITORING / "alerts_test.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
