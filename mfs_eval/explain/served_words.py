"""An explanation of a request of ``mfs serve`` in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mfs_eval.explain.served import REUSED_KV, STAGE_NAMES, Level, ServedExplanation, Transfer
from mfs_eval.serve.serve_rows import Row


def told(one: ServedExplanation) -> str:
    """Return the explanation in lines."""
    if one.ttft_ms is None:
        verdict = f"failed ({one.error})"
    else:
        late = one.ttft_ms - one.objective_ms
        verdict = f"first token after {one.ttft_ms:.0f} ms, objective {one.objective_ms:.0f} ms: "
        verdict += f"{late:.0f} ms late" if late > 0 else f"in time by {-late:.0f} ms"
    lines = [
        f"Request {one.request} under {one.policy} (mfs serve, {one.group}, seed {one.seed}): {verdict}.",
        f"Prompt of {one.prompt_tokens:,} tokens, at the prefill engine of {one.engine}.",
    ]
    if one.stages is not None and one.ttft_ms:
        lines += ["", "Where its time went:"]
        for key, name in STAGE_NAMES.items():
            ms = getattr(one.stages, key)
            lines.append(f"  {name:30}{ms:9.0f} ms {ms / one.ttft_ms:6.0%}")
    if one.engine_shared_with:
        others = "; ".join(f"{other.what} for {other.ms:.0f} ms" for other in one.engine_shared_with)
        lines += ["", f"The prefill engine of {one.engine} had at the same time: {others}."]
    lines += ["", "Its KV (times since it was sent):"]
    for moved in one.transfers:
        lines += _transfer(moved)
    return "\n".join([*lines, *_levels(one.levels)])


def _transfer(moved: Transfer) -> Iterator[str]:
    stamped = "" if moved.stamped or moved.what == REUSED_KV else ", not stamped"
    failed = f", failed: {moved.error}" if moved.error else ""
    yield (
        f"  {moved.what}, {moved.source} to {moved.target}, {moved.bytes / 1e6:.1f} MB{stamped}{failed}: ready at "
        f"{moved.opened_ms:.0f} ms, accepted at {moved.began_ms:.0f}, complete at {moved.ended_ms:.0f}"
    )
    for link in moved.links:
        if link.besides:
            others = "; ".join(
                f"{other.what} ({other.bytes / 1e6:.1f} MB) for {other.ms:.0f} ms" for other in link.besides
            )
            yield f"      {link.place}, shared with {others}"


def _levels(levels: Sequence[Level]) -> Iterator[str]:
    if levels:
        yield from ("", "Levels that the senders' agents gave its flows:")
    known: dict[tuple[str, int], int] = {}
    for seen in levels:
        before = known.get((seen.server, seen.flow))
        change = f"at level {seen.level}" if before is None else f"from level {before} to {seen.level}"
        known[seen.server, seen.flow] = seen.level
        yield (
            f"  {seen.time_ms:8.0f} ms  {seen.stage} flow {seen.flow} of {seen.server} {change} (slack "
            f"{seen.slack_ms:.0f} ms, {seen.layers_to_go} layers to go, {seen.sent_bytes / 1e6:.1f} MB sent)"
        )


def listed(rows: Sequence[Row], most: int) -> str:
    """Return the requests as a table, the latest first; those that failed before them."""
    order = sorted(rows, key=lambda row: row.objective_ms - (row.ttft_ms if row.ttft_ms is not None else 1e12))
    late = sum(not row.in_time for row in rows)
    lines = [
        f"{late} of {len(rows)} requests were late or failed. The latest {min(most, len(rows))}:",
        "",
        f"{'request':20}{'policy':>14}{'seed':>6}{'objective, ms':>15}{'TTFT, ms':>10}{'late by, ms':>13}",
    ]
    for row in order[:most]:
        late_by = "" if row.ttft_ms is None else f"{row.ttft_ms - row.objective_ms:.0f}"
        ttft = "failed" if row.ttft_ms is None else f"{row.ttft_ms:.0f}"
        lines.append(f"{row.request:20}{row.policy:>14}{row.seed:6}{row.objective_ms:15.0f}{ttft:>10}{late_by:>13}")
    return "\n".join(lines)
