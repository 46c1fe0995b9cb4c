"""examples/policy and docs/guide/write-a-scheduler.md: the page shows what really happens."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from host_agent.protocol.level import bias_code
from host_agent.protocol.scapy_layer import MFS
from host_agent.protocol.stamp import Flags, Stage, Stamp, units_of
from mfs_ctrl import policies
from mfs_ctrl.policy.tuning import TrackLateShare
from tests.support.cli import finished
from tests.support.controller import MILLISECOND_NS, TOPOLOGY, controller, packet, pass_through, serving
from tests.support.program import Program, ipv4_to

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "policy"
PAGE = (ROOT / "docs" / "guide" / "write-a-scheduler.md").read_text("utf-8")
LONE = Flags.FIRST | Flags.LAST
EXAMPLES = sorted(FOLDER.glob("*.toml"))


def show_order() -> ModuleType:
    spec = importlib.util.spec_from_file_location("show_order", FOLDER / "show_order.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_switch_gives_the_order_that_the_example_shows(path: Path) -> None:
    shown = show_order()
    program = Program()
    program.set_rules(policies.load(path).rules)
    program.set_bias(bias_code(shown.RATE_BPS))
    found = {}
    for flow, (what, (stage, rli, slack_us, size)) in enumerate(shown.PACKETS.items()):
        stamp = MFS(
            stage=int(stage),
            flags=Flags.FIRST.value,
            flow=flow,
            target_layer=rli,
            slack=slack_us,
            remaining=units_of(size),
        )
        out = program.send(ipv4_to(program.topology, 1, stamp))
        assert out is not None
        found[what] = out.level
    assert found == {what: level for level, what in shown.order(str(path))}


def test_small_flows_overtake_large_ones_in_the_switchs_queue() -> None:
    with serving() as (switch, server):
        one = controller(server, policies.load(FOLDER / "small-first.toml"))
        one.start()
        for flow, size in enumerate((40_000_000, 200_000_000, 1_000_000)):
            stamp = Stamp(Stage.P2D, Flags.FIRST, batch=1, flow=flow, slack_us=300_000, remaining=units_of(size))
            switch.receive(TOPOLOGY.hosts[0].port, packet(stamp), 0)
        left = [switch.transmit(TOPOLOGY.hosts[1].port, tick * MILLISECOND_NS) for tick in range(3)]
        one.stop()
    flows = [Stamp.unpack(item[0][14:]).flow for item in left if item is not None]
    assert flows == [2, 0, 1]


def test_the_controller_tunes_the_threshold_that_the_policy_declares() -> None:
    chosen = policies.load(FOLDER / "promote-late.toml")
    loop = chosen.tuning["promote"]
    assert isinstance(loop, TrackLateShare)
    with serving() as (switch, server):
        one = controller(server, chosen, tune=True)
        one.start(0)
        for flow in range(loop.min_completions):
            slack_us = -100 if flow % 2 else 5000
            pass_through(switch, Stamp(Stage.P2D, LONE, batch=2, flow=flow, slack_us=slack_us, remaining=1))
        record = one.tick(MILLISECOND_NS)
        one.stop()
    assert record is not None
    assert record.shares["promote"] == 0.5
    assert record.thresholds == chosen.thresholds.replace(promote=chosen.thresholds["promote"] - 1)


def test_the_demo_plays_the_examples(tmp_path: Path) -> None:
    options = ["--scenario", "testbed", "--requests", "3", "--jobs", "1", "--out", str(tmp_path)]
    done = finished("demo", *options, *(option for path in EXAMPLES for option in ("--policy", str(path))))
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "results.json").read_text("utf-8"))["runs"]
    assert {run["policy"] for run in runs} == {path.stem for path in EXAMPLES}
    assert all(run["packets"] > 0 for run in runs)


class TestPage:
    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
    def test_the_page_shows_each_example_completely(self, path: Path) -> None:
        assert path.read_text("utf-8") in blocks("toml")

    def test_the_order_on_the_page_is_what_the_script_prints(self) -> None:
        (command, *lines) = next(block for block in blocks("console") if "show_order" in block).splitlines()
        shown = show_order().order(str(ROOT / command.split()[-1]))
        assert lines == [f"{level} {what}" for level, what in shown]

    def test_the_python_code_runs_and_prints_what_the_page_shows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        (code,) = blocks("python")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "write-a-scheduler.md", "exec"), {})
        assert printed.getvalue() in PAGE

    def test_the_table_of_settings_has_the_defaults(self) -> None:
        rows = re.findall(r"^\| (`[^|]+) \| (both|`track-[a-z-]+`|`\[load\]`) \| ([^|]+) \|", PAGE, re.MULTILINE)
        mfs = policies.mfs()
        models = {"`track-late-share`": [mfs.tuning["mlu"]], "`track-median-slack`": [mfs.tuning["tight_slack"]]}
        models |= {"`[load]`": [mfs.load], "both": list(mfs.tuning.values())}
        assert len(rows) == 11
        for names, kind, values in rows:
            for name, value in zip(re.findall(r"`(\w+)`", names), values.split(", "), strict=True):
                for model in models[kind]:
                    default = type(model).model_fields[name].default
                    assert value == "none" or float(value) == default, name

    def test_the_tuner_table_is_accepted_by_mfs(self) -> None:
        (block,) = (block for block in blocks("toml") if block.startswith("[tuner"))
        chosen = policies.mfs().tuned_by(tomllib.loads(block)["tuner"])
        assert chosen.tuning["mlu"].late_target == 0.02
        assert chosen.load.weight == 0.5

    def test_the_error_message_on_the_page_is_what_is_printed(self, tmp_path: Path) -> None:
        path = tmp_path / "wrong.toml"
        path.write_text(
            'name = "wrong"\ndescription = "refers to a threshold that is missing"\nrules = [\n'
            '    { stage = "NONE", level = 7 },\n    { stage = "P2D", level = 1, rli = 0 },\n'
            '    { stage = "P2D", level = 3, slack = { max = "soon" } },\n]\n',
            "utf-8",
        )
        done = finished("ctrl", "--policy", str(path))
        message = done.stderr.splitlines()[-1].replace(f"{tmp_path}/", "")
        assert message in PAGE

    def test_every_option_on_the_page_exists(self) -> None:
        for command in ("demo", "ctrl"):
            help_text = finished(command, "--help").stdout
            for line in PAGE.splitlines():
                if line.startswith(f"$ mfs {command} "):
                    assert all(option in help_text for option in re.findall(r"--[a-z-]+", line))
