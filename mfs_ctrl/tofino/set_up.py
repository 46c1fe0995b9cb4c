"""The steps of ``mfs tofino queues``: compute the settings, show them, and write them if asked to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from mfs_ctrl.desired import SwitchParameters
from mfs_ctrl.errors import TofinoError
from mfs_ctrl.tofino.bf_runtime import BfRuntime
from mfs_ctrl.tofino.queues import CHIPS, Chip, buffer_cells, holds, settings, text
from mfs_ctrl.tofino.stratum import chassis_text


def parameters_with(queue_bytes: int | None, guaranteed_share: float | None) -> SwitchParameters:
    """Return the controller's default parameters, except for those that are given."""
    parameters = SwitchParameters()
    if queue_bytes is not None:
        parameters = replace(parameters, queue_bytes=queue_bytes)
    if guaranteed_share is not None:
        parameters = replace(parameters, guaranteed_share=guaranteed_share)
    return parameters


def stratum_text(rates_bps: Mapping[int, int], parameters: SwitchParameters, chip_name: str) -> Iterator[str]:
    """Return the lines of Stratum's chassis config for the queues of the ports ``rates_bps``.

    Raises:
        TofinoError: the chip does not support the parameters.
    """
    return chassis_text(settings(rates_bps, parameters, CHIPS[chip_name]))


def planned_rows(
    rates_bps: Mapping[int, int], parameters: SwitchParameters, chip_name: str, shape: bool
) -> Iterator[str]:
    """Yield lines that describe the settings of the ports ``rates_bps`` on a chip, without a switch.

    Raises:
        TofinoError: the chip does not support the parameters.
    """
    chip = CHIPS[chip_name]
    for setting in settings(rates_bps, parameters, chip, shape):
        yield setting.describe()
    yield _totals(rates_bps, parameters, chip)


def set_up_queues(
    rates_bps: Mapping[int, int],
    parameters: SwitchParameters,
    shape: bool,
    address: str,
    device_id: int,
    apply: bool,
) -> Iterator[str]:
    """Yield lines that describe the settings of the ports ``rates_bps`` and the placement of their queues.

    With ``apply`` the settings are written after the last of these lines, and read back; one more line gives the number
    of rows.

    Raises:
        TofinoError: the chip does not support the parameters, the switch refuses, or it then holds something else.
    """
    with BfRuntime(address, device_id) as switch:
        wanted = settings(rates_bps, parameters, switch.chip, shape)
        placements = {dev_port: switch.placement(dev_port) for dev_port in sorted(rates_bps)}
        changes = [(setting, placements[setting.dev_port]) for setting in wanted]
        for setting, placement in changes:
            yield setting.describe(placement)
        yield _totals(rates_bps, parameters, switch.chip)
        if apply:
            written = switch.write(changes)
            for setting, placement in changes:
                held = switch.read(setting, placement)
                if not holds(held, setting):
                    raise TofinoError(
                        f"the switch at {address} took the row but holds {text(held)}: {setting.describe(placement)}"
                    )
            yield f"{written} rows written to {address} and read back"


def _totals(rates_bps: Mapping[int, int], parameters: SwitchParameters, chip: Chip) -> str:
    own, limits = buffer_cells(rates_bps, parameters, chip)
    return (
        f"buffer of {len(rates_bps)} ports on {chip.name}: {own:,} cells of {chip.cell_bytes} bytes reserved, "
        f"queue limits of {limits * chip.cell_bytes / 1e6:.1f} MB in total"
    )
