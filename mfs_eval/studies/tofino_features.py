"""Edits that leave one feature out of the Tofino program, so that its sources need no conditionals for the comparison.

``tests/mfs_eval/test_tofino_cost.py`` checks that every passage is found in the sources.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mfs_eval.errors import EvaluationError
from p4src.artifact import FOLDERS, ROOT, TOFINO


@dataclass(frozen=True, slots=True)
class Edit:
    """Replacement of ``old`` by ``new`` everywhere in the file ``path``, relative to ``p4src``."""

    path: str
    old: str
    new: str = ""


@dataclass(frozen=True, slots=True)
class Feature:
    """An optional part of the program, and the edits that remove it."""

    name: str
    edits: tuple[Edit, ...]


FEATURES = (
    Feature(
        "policing",
        (
            Edit(
                "tna/pipeline.p4",
                """        police.apply(intrinsic.ingress_port, meta, lowered, excess);
        if (excess) {
            enqueue(lowered);
        } else {
            enqueue(meta.level);
        }
""",
                "        enqueue(meta.level);\n",
            ),
        ),
    ),
    Feature(
        "ECMP",
        (
            Edit(
                "tna/next_hop.p4",
                """            meta.path.src_addr  : selector;
            meta.path.dst_addr  : selector;
            meta.path.protocol  : selector;
            meta.path.src_port  : selector;
            meta.path.dst_port  : selector;
""",
            ),
            Edit("tna/next_hop.p4", "        implementation = next_hop_selector;\n"),
        ),
    ),
    Feature(
        "IPv6",
        (
            Edit("shared/parser.p4", "            ETHERTYPE_IPV6 : parse_ipv6;\n"),
            Edit("shared/route.p4", "            ipv6_route.apply();\n"),
        ),
    ),
    Feature(
        "progress",
        (Edit("tna/pipeline.p4", "            progress.apply(hdr.inner.mfs);\n"),),
    ),
    Feature(
        "ratchet",
        (
            Edit(
                "tna/pipeline.p4",
                "        remember.apply(stamped, hdr.inner.mfs, meta.path.src_addr, now, meta, cell, rule);\n",
            ),
            Edit("tna/pipeline.p4", "        ratchet.apply(stamped, hdr.inner.mfs, cell, rule, meta);\n"),
        ),
    ),
    Feature(
        "load of the port (`port_bias`)",
        (Edit("shared/rmlq.p4", "        port_bias.apply();\n", "        meta.bias = 0;\n"),),
    ),
    Feature(
        "slack and remaining in `rmlq`",
        (
            Edit("shared/rmlq.p4", '            meta.slack_code     : range @name("slack_code");\n'),
            Edit("shared/rmlq.p4", '            meta.remaining_code : range @name("remaining_code");\n'),
        ),
    ),
    Feature(
        "counter `laxity`",
        (
            Edit("shared/aged.p4", "        mlu.apply(meta);\n"),
            Edit("shared/aged.p4", "mfs.stage[1:0] ++ meta.level[2:0] ++ meta.urgency[7:4]", "0"),
            Edit("tna/observe.p4", "            laxity.count(meta.laxity_cell, BRIDGED_FCS_BYTES(hdr));\n"),
        ),
    ),
    Feature(
        "counter `completion`",
        (Edit("tna/observe.p4", "                completion.count(meta.completion_cell);\n"),),
    ),
    Feature(
        "counter `port_level`",
        (
            Edit(
                "tna/observe.p4",
                "        port_level.count(egress_port ++ meta.level[2:0], BRIDGED_FCS_BYTES(hdr));\n",
            ),
        ),
    ),
    Feature("marking (`ecn`)", (Edit("tna/pipeline.p4", "        mark.apply(queued_us, hdr.inner, meta);\n"),)),
    Feature(
        "level in the DSCP",
        (Edit("tna/pipeline.p4", "        class_selector.apply(intrinsic.egress_port, hdr.inner, meta);\n"),),
    ),
    Feature(
        "last hop",
        (Edit("tna/pipeline.p4", "        last_hop.apply(intrinsic.egress_port, hdr.inner, meta);\n"),),
    ),
)


def write_without(features: Iterable[Feature], folder: Path) -> None:
    """Copy the sources for Tofino to ``folder`` without ``features``.

    Raises:
        EvaluationError: the sources have changed: a passage to remove is missing.
        OSError: ``folder`` exists already, or cannot be written.
    """
    for sources in FOLDERS[TOFINO]:
        shutil.copytree(ROOT / sources, folder / sources)
    for feature in features:
        for edit in feature.edits:
            path = folder / edit.path
            text = path.read_text("utf-8")
            if edit.old not in text:
                raise EvaluationError(
                    f"p4src/{edit.path} no longer has {edit.old.strip()!r}, so {feature.name} cannot be removed; "
                    "update mfs_eval/studies/tofino_features.py"
                )
            path.write_text(text.replace(edit.old, edit.new), "utf-8")
