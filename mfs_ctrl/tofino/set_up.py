"""Queue set-up from beginning to end: compute, show, and write if asked to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.errors import TofinoError
from mfs_ctrl.tofino.bf_runtime import BfRuntime
from mfs_ctrl.tofino.queues import CHIPS, Chip, buffer_cells, settings
from mfs_ctrl.tofino.stratum import chassis_text

Say = Callable[[str], None]


def parameters_with(queue_bytes: int | None, guaranteed_share: float | None) -> SwitchParameters:
    """The controller's own parameters, but for what is given."""
    parameters = SwitchParameters()
    if queue_bytes is not None:
        parameters = replace(parameters, queue_bytes=queue_bytes)
    if guaranteed_share is not None:
        parameters = replace(parameters, guaranteed_share=guaranteed_share)
    return parameters


def show_for_stratum(rates_bps: Mapping[int, int], parameters: SwitchParameters, chip_name: str, say: Say) -> None:
    """Show what Stratum's chassis config must say of the queues of the ports ``rates_bps``.

    Raises:
        TofinoError: parameters that the chip cannot have.
    """
    for line in chassis_text(settings(rates_bps, parameters, CHIPS[chip_name])):
        say(line)


def set_up_queues(
    rates_bps: Mapping[int, int],
    parameters: SwitchParameters,
    chip_name: str,
    shape: bool,
    address: str | None,
    device_id: int,
    apply: bool,
    say: Say,
) -> None:
    """Show what the queues of the ports ``rates_bps`` must be set to; with ``apply`` write it to the switch.

    Raises:
        TofinoError: ``apply`` without ``address``, parameters that the chip cannot have, or a switch that refuses.
    """
    if address is None:
        if apply:
            raise TofinoError("there is no switch to write to; name its BF Runtime service with --address")
        chip = CHIPS[chip_name]
        for setting in settings(rates_bps, parameters, chip, shape):
            say(setting.in_words())
        _say_totals(rates_bps, parameters, chip, say)
        return
    with BfRuntime(address, device_id) as switch:
        wanted = settings(rates_bps, parameters, switch.chip, shape)
        placements = {dev_port: switch.placement(dev_port) for dev_port in sorted(rates_bps)}
        changes = [(setting, placements[setting.dev_port]) for setting in wanted]
        for setting, placement in changes:
            say(setting.in_words(placement))
        _say_totals(rates_bps, parameters, switch.chip, say)
        if apply:
            say(f"{switch.write(changes)} rows written to {address}")


def _say_totals(rates_bps: Mapping[int, int], parameters: SwitchParameters, chip: Chip, say: Say) -> None:
    own, limits = buffer_cells(rates_bps, parameters, chip)
    say(
        f"buffer of {len(rates_bps)} ports on {chip.name}: {own:,} cells of {chip.cell_bytes} bytes set aside, "
        f"limits of {limits * chip.cell_bytes / 1e6:.1f} MB in all"
    )
