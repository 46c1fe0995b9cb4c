"""The run that is explained: named by options or taken from a file of results, and played again with a recorder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mfs_eval.errors import EvaluationError
from mfs_eval.explain.explanation import RunName
from mfs_eval.explain.names import Names
from mfs_eval.explain.recording import LiveRecording, Recording
from mfs_eval.live import live_record, virtual_time
from mfs_eval.live.live_rows import FILE as LIVE_FILE
from mfs_eval.live.live_rows import Row
from mfs_eval.packet_level import experiment
from mfs_eval.packet_level.flight_recorder import FlightRecorder
from mfs_eval.packet_level.low_load import workload
from mfs_eval.results import schema
from mfs_eval.results.provenance import provenance
from mfs_eval.results.rows import read_rows
from mfs_eval.results.schema import Results
from mfs_eval.serving.trace import SAMPLE_PATH, load_trace
from mfs_eval.setup.policies import CEILING
from mfs_eval.setup.run_settings import ORDERS, ControlSettings, RunSettings
from mfs_eval.setup.scenario import Scenario, scenario_named
from mfs_eval.setup.workload import Workload
from p4src import artifact

RESULTS_FILE = "results.json"
HOSTS_AND_SWITCH = "hosts and switch"
"""How ``results.json`` calls the first of :data:`~mfs_eval.setup.run_settings.ORDERS`."""


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """A run that was recorded."""

    run: RunName
    recorder: Recording
    names: Names
    recorded: bool = False
    """Whether it was not played but recorded as it ran."""


@dataclass(frozen=True, slots=True)
class RecordedName:
    """See :class:`~mfs_eval.explain.explanation.RunName`."""

    scenario: str
    policy: str
    request_rate: float
    seed: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options say about the run; None and 0 where they say nothing."""

    scenario: str | None = None
    request_rate: float | None = None
    seed: int | None = None
    requests: int = 0
    trace: Path | None = None
    order: str | None = None


class Replay(Protocol):
    """A run that can be played under a policy."""

    policies: tuple[str, ...]
    """Policies to explain if none is named: the first."""

    def play(self, policy: str) -> Played:
        """Play it.

        Raises:
            EvaluationError: there is no such policy, or the run is not that of the results.
        """
        ...


class ScenarioReplay:
    """A run of a scenario, as ``mfs demo`` makes them; see :class:`Wanted`.

    ``results``: the runs that it must repeat, where they come from a file.

    Raises:
        EvaluationError: there is no such scenario, or the trace cannot be read or is too short.
    """

    def __init__(self, wanted: Wanted, requests: int, results: Results | None = None) -> None:
        self._scenario: Scenario = scenario_named(wanted.scenario or "testbed")
        rates = self._scenario.request_rates
        self._rate = wanted.request_rate if wanted.request_rate is not None else rates[len(rates) // 2]
        self._seed = wanted.seed if wanted.seed is not None else 1
        self._settings = RunSettings(control=ControlSettings(order=wanted.order or ORDERS[0]))
        self._stored = results.runs if results is not None else []
        self.policies: tuple[str, ...] = ("mfs",)
        trace = load_trace(wanted.trace or SAMPLE_PATH)
        self._work: Workload = workload(self._scenario, trace, requests)

    def play(self, policy: str) -> Played:
        """See :meth:`Replay.play`."""
        if policy == CEILING:
            raise EvaluationError(f"{CEILING} is a bound without a network: there is nothing to explain")
        recorder = FlightRecorder()
        try:
            run = experiment.run(
                self._scenario, self._work, policy, self._rate, self._seed, self._settings, recorder=recorder
            )
        except ValueError as error:
            raise EvaluationError(str(error)) from None
        for stored in self._stored:
            same = (stored.scenario, stored.policy, stored.request_rate, stored.seed) == (
                run.scenario, run.policy, run.request_rate, run.seed,
            )  # fmt: skip
            if same and stored.ttft_s != run.ttft_s:
                raise EvaluationError(
                    f"{policy}: played again, the run gives other times than the results have, which come from another "
                    "version or another trace; run mfs demo again, or name the trace with --trace"
                )
        return Played(run, recorder, Names(self._scenario, recorder.batches))


class LiveRun:
    """Runs of ``mfs live`` as they were recorded: one setting, any policy; see :mod:`mfs_eval.live.live_record`.

    Args:
        rows: by policy.
        folder: that of their file.
    """

    def __init__(self, rows: Mapping[str, Row], folder: Path) -> None:
        self._rows = rows
        self._folder = folder
        self.policies: tuple[str, ...] = tuple(rows)

    def play(self, policy: str) -> Played:
        """See :meth:`Replay.play`; nothing is played."""
        row = self._rows.get(policy)
        if row is None:
            raise EvaluationError(f"there is no record of {policy}, only of {', '.join(self._rows)}")
        settings = virtual_time.settings_of(row)
        ports = {host.id: host.port for host in settings.topology.hosts}
        recording = LiveRecording(live_record.read(live_record.path_of(self._folder, row)), ports)
        name = RecordedName(row.cluster, row.policy, row.request_rate, row.seed)
        return Played(name, recording, Names(settings.scenario, recording.batches), recorded=True)


class LiveReplay:
    """A run of ``mfs live``, in virtual time over a simulated TCP; ``row`` is that of any policy."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.policies: tuple[str, ...] = (row.policy,)

    def play(self, policy: str) -> Played:
        """See :meth:`Replay.play`."""
        recorder = FlightRecorder()
        run = virtual_time.play(self._row.model_copy(update={"policy": policy}), recorder=recorder)
        return Played(run, recorder, Names(virtual_time.settings_of(self._row).scenario, recorder.batches))


def replay(source: Path | None, wanted: Wanted, default_requests: int) -> Replay:
    """Return the run that ``wanted`` says, of the results in ``source`` if there are any.

    Args:
        source: ``results.json`` or ``live.csv``, or a folder with one of them; None for a scenario.
        wanted: which run.
        default_requests: requests of a run that ``source`` does not say.

    Raises:
        EvaluationError: the source has no such run, or cannot be read.
    """
    if source is None:
        return ScenarioReplay(wanted, wanted.requests or default_requests)
    path = source
    if source.is_dir():
        path = next((source / name for name in (RESULTS_FILE, LIVE_FILE) if (source / name).exists()), source)
    if path.is_dir() or path.suffix not in (".json", ".csv"):
        raise EvaluationError(f"{source}: has no {RESULTS_FILE} of mfs demo and no {LIVE_FILE} of mfs live")
    try:
        return _of_live(path, wanted) if path.suffix == ".csv" else _of_results(path, wanted)
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from None


def _of_results(path: Path, wanted: Wanted) -> ScenarioReplay:
    results = schema.read(path)
    given = wanted.scenario, wanted.request_rate, wanted.seed
    keys = list(dict.fromkeys((run.scenario, run.request_rate, run.seed) for run in results.runs))
    matching = [key for key in keys if all(want in (None, have) for want, have in zip(given, key, strict=True))]
    if not matching:
        raise EvaluationError(f"{path}: has no such run; it has {_listed(keys)}")
    scenario, rate, seed = matching[len(matching) // 2]
    trace = wanted.trace or SAMPLE_PATH
    if results.provenance.trace_digest not in ("", provenance(trace, artifact.load()).trace_digest):
        raise EvaluationError(
            f"{path}: its trace was another one than {trace.name}; name it with --trace "
            f"(the results call it {results.settings.get('trace', 'nothing')})"
        )
    order = str(results.settings.get("scheduled by the policy", HOSTS_AND_SWITCH))
    order = ORDERS[0] if order == HOSTS_AND_SWITCH else order
    exact = Wanted(scenario, rate, seed, 0, trace, order)
    found = ScenarioReplay(exact, int(results.settings.get("requests per run", 0)), results)
    policies = tuple(dict.fromkeys(run.policy for run in results.runs if run.policy != CEILING))
    found.policies = tuple(sorted(policies, key=lambda name: name != "mfs"))
    return found


def _of_live(path: Path, wanted: Wanted) -> Replay:
    given = wanted.scenario, wanted.request_rate, wanted.seed
    if (recorded := _recorded(path, given)) is not None:
        return recorded
    rows = virtual_time.read(path)
    keys = list(dict.fromkeys((row.cluster, row.request_rate, row.seed) for row in rows))
    matching = [
        row
        for row in rows
        if all(
            want in (None, have) for want, have in zip(given, (row.cluster, row.request_rate, row.seed), strict=True)
        )
    ]
    if not matching:
        raise EvaluationError(f"{path}: has no such run; it has {_listed(keys)}")
    return LiveReplay(matching[-1])


def _recorded(path: Path, given: tuple[str | None, float | None, int | None]) -> LiveRun | None:
    """Return the last setting of ``path`` that is ``given`` and has a record; None if there is none."""
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in read_rows(path, Row):
        named = (row.cluster, row.request_rate, row.seed)
        if (
            all(want in (None, have) for want, have in zip(given, named, strict=True))
            and live_record.path_of(path.parent, row).exists()
        ):
            found.setdefault(row.model_copy(update={"policy": ""}).key, {})[row.policy] = row
    return LiveRun(list(found.values())[-1], path.parent) if found else None


def _listed(keys: Sequence[tuple[str, float, int]]) -> str:
    return "; ".join(f"{scenario} at {rate:g}/s with seed {seed}" for scenario, rate, seed in keys)
