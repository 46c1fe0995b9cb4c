"""Indirect meters and the conversion of meter configurations (specification, "MeterEntry & DirectMeterEntry")."""

from __future__ import annotations

from p4.v1 import p4runtime_pb2

from soft_switch.model.externs import MeterConfig
from soft_switch.p4runtime.arrays import indices
from soft_switch.p4runtime.loaded_program import LoadedProgram
from soft_switch.p4runtime.p4info import SINGLE_RATE_TWO_COLOR, MeterInfo
from soft_switch.p4runtime.read_responses import ReadResponses
from soft_switch.p4runtime.status import invalid, unimplemented


def decode_meter_config(config: p4runtime_pb2.MeterConfig, meter: MeterInfo) -> MeterConfig:
    """Return a configuration, with rates in units (bytes or packets) per second.

    Raises:
        RequestError: INVALID_ARGUMENT if it is not a configuration of RFC 2698.
    """
    for part in ("cir", "cburst", "pir", "pburst", "eburst"):
        if getattr(config, part) < 0:
            raise invalid(f"meter {meter.name}: {part} must be 0 or more, not {getattr(config, part)}")
    if config.eburst:
        raise invalid(f"meter {meter.name}: eburst is for single rate three color meters; it must be 0 here")
    if config.pir < config.cir:
        raise invalid(f"meter {meter.name}: pir {config.pir} is below cir {config.cir}")
    if meter.kind == SINGLE_RATE_TWO_COLOR and (config.cir, config.cburst) != (config.pir, config.pburst):
        raise invalid(f"meter {meter.name} has a single rate: pir and pburst must equal cir and cburst")
    return MeterConfig(int(config.cir), int(config.cburst), int(config.pir), int(config.pburst))


def encode_meter_config(config: MeterConfig) -> p4runtime_pb2.MeterConfig:
    """Return the MeterConfig message of a configuration."""
    return p4runtime_pb2.MeterConfig(cir=config.cir, cburst=config.cburst, pir=config.pir, pburst=config.pburst)


def _refuse_color_counters(message: p4runtime_pb2.MeterEntry) -> None:
    if message.HasField("counter_data"):
        raise unimplemented("this switch keeps no counters per meter color")


def write_meter(program: LoadedProgram, update_type: int, message: p4runtime_pb2.MeterEntry) -> None:
    """Configure one cell, or all if no index is given; without ``config`` everything is green."""
    if update_type != p4runtime_pb2.Update.MODIFY:
        raise invalid("the cells of a meter always exist: only MODIFY is possible")
    info = program.info.meters.get(message.meter_id)
    _refuse_color_counters(message)
    config = decode_meter_config(message.config, info) if message.HasField("config") else None
    meter = program.pipeline.meters[info.name]
    for index in indices(message, f"meter {info.name}", info.size):
        meter.configs[index] = config


def read_meters(program: LoadedProgram, message: p4runtime_pb2.MeterEntry, found: ReadResponses) -> None:
    """Read one cell, all cells of a meter (no index), or all cells of all meters (id 0)."""
    _refuse_color_counters(message)
    selected = [program.info.meters.get(message.meter_id)] if message.meter_id else list(program.info.meters)
    for info in selected:
        meter = program.pipeline.meters[info.name]
        cells = indices(message, f"meter {info.name}", info.size) if message.meter_id else range(info.size)
        for index in cells:
            cell = found.add().meter_entry
            cell.meter_id = info.id
            cell.index.index = index
            config = meter.configs[index]
            if config is not None:
                cell.config.CopyFrom(encode_meter_config(config))
