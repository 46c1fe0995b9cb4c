-- Wireshark and tshark dissector of the MFS stamp: the 24 bytes after an Ethernet header of type 0x88B5, or in a TCP option.
--
-- Load it with "tshark -X lua_script:mfs.lua ...", or put it into Wireshark's folder of personal Lua plugins.
-- host_agent/protocol/stamp.py defines the layout; tests/host_agent/test_wireshark.py compares both.

local ETHERTYPE_MFS = 0x88B5
local TCP_OPTION_KIND, TCP_OPTION_EXPERIMENT = 253, 0x4d46
local VERSION = 1
local STAMP_BYTES = 24
local REMAINING_UNIT_BYTES = 256
local STAGES = { [0] = "none", [1] = "KV reuse", [2] = "collective", [3] = "P2D" }

local mfs = Proto("mfs", "Multi-stage Flow Scheduling stamp")
local f = mfs.fields
f.version = ProtoField.uint8("mfs.version", "Version", base.DEC, nil, 0xF0)
f.stage = ProtoField.uint8("mfs.stage", "Stage", base.DEC, STAGES, 0x0F)
f.flags = ProtoField.uint8("mfs.flags", "Flags", base.HEX)
f.first = ProtoField.bool("mfs.flags.first", "First packet of the flow", 8, nil, 0x80)
f.boundary = ProtoField.bool("mfs.flags.boundary", "A message or layer starts here", 8, nil, 0x40)
f.last = ProtoField.bool("mfs.flags.last", "Last packet of the flow", 8, nil, 0x20)
f.register = ProtoField.bool("mfs.flags.register", "Registration of a RoCEv2 flow", 8, nil, 0x10)
f.reverse = ProtoField.bool("mfs.flags.reverse", "The flow goes the other way", 8, nil, 0x08)
f.out_of_order = ProtoField.bool("mfs.flags.out_of_order", "The receiving NIC places data out of order", 8, nil, 0x04)
f.next_type = ProtoField.uint16("mfs.next_type", "Next type", base.HEX)
f.batch = ProtoField.uint32("mfs.batch", "Batch")
f.flow = ProtoField.uint16("mfs.flow", "Flow")
f.target_layer = ProtoField.uint8("mfs.target_layer", "Target layer")
f.current_layer = ProtoField.uint8("mfs.current_layer", "Current layer")
f.rli = ProtoField.uint8("mfs.rli", "Relative layer index (RLI)")
f.slack = ProtoField.int32("mfs.slack", "Slack", base.UNIT_STRING, { " us" })
f.remaining = ProtoField.uint32("mfs.remaining", "Remaining, in units of 256 bytes")
f.remaining_bytes = ProtoField.uint64("mfs.remaining_bytes", "Remaining", base.UNIT_STRING, { " byte", " bytes" })
f.reserved = ProtoField.uint32("mfs.reserved", "Reserved", base.HEX)
f.queue_pair = ProtoField.uint32("mfs.queue_pair", "Destination queue pair", base.HEX, nil, 0x00FFFFFF)

local too_short = ProtoExpert.new("mfs.too_short", "Shorter than a stamp", expert.group.MALFORMED, expert.severity.ERROR)
local wrong_version = ProtoExpert.new("mfs.wrong_version", "Not version 1", expert.group.PROTOCOL, expert.severity.ERROR)
local no_stage = ProtoExpert.new("mfs.no_stage", "Unknown stage", expert.group.PROTOCOL, expert.severity.ERROR)
mfs.experts = { too_short, wrong_version, no_stage }

local ethertypes = DissectorTable.get("ethertype")
local tcp_options = DissectorTable.get("tcp.option")

-- Adds the stamp at the start of the buffer; returns whether it is long enough.
local function add_stamp(buffer, tree)
    if buffer:len() < STAMP_BYTES then
        tree:add(mfs, buffer()):add_proto_expert_info(too_short)
        return false
    end
    local stamp = buffer(0, STAMP_BYTES)
    local stage, flags = buffer(0, 1):bitfield(4, 4), buffer(1, 1)
    local target, current, remaining = buffer(10, 1):uint(), buffer(11, 1):uint(), buffer(16, 4)
    local root = tree:add(mfs, stamp)
    root:append_text(string.format(", %s, batch %d, flow %d, slack %d us",
        STAGES[stage] or "stage " .. stage, buffer(4, 4):uint(), buffer(8, 2):uint(), buffer(12, 4):int()))
    root:add(f.version, buffer(0, 1))
    root:add(f.stage, buffer(0, 1))
    local bits = root:add(f.flags, flags)
    bits:add(f.first, flags)
    bits:add(f.boundary, flags)
    bits:add(f.last, flags)
    bits:add(f.register, flags)
    bits:add(f.reverse, flags)
    bits:add(f.out_of_order, flags)
    root:add(f.next_type, buffer(2, 2))
    root:add(f.batch, buffer(4, 4))
    root:add(f.flow, buffer(8, 2))
    root:add(f.target_layer, buffer(10, 1))
    root:add(f.current_layer, buffer(11, 1))
    root:add(f.rli, buffer(10, 2), math.max(0, target - current)):set_generated()
    root:add(f.slack, buffer(12, 4))
    root:add(f.remaining, remaining)
    root:add(f.remaining_bytes, remaining, UInt64.new(remaining:uint()) * REMAINING_UNIT_BYTES):set_generated()
    root:add(f.reserved, buffer(20, 4))
    if buffer(1, 1):bitfield(3, 1) == 1 then
        root:add(f.queue_pair, buffer(20, 4))
    end
    if buffer(0, 1):bitfield(0, 4) ~= VERSION then
        root:add_proto_expert_info(wrong_version)
    elseif STAGES[stage] == nil then
        root:add_proto_expert_info(no_stage)
    end
    return true
end

function mfs.dissector(buffer, packet, tree)
    packet.cols.protocol = "MFS"
    if add_stamp(buffer, tree) and buffer:len() > STAMP_BYTES then
        ethertypes:try(buffer(2, 2):uint(), buffer(STAMP_BYTES):tvb(), packet, tree)
    end
end

ethertypes:add(ETHERTYPE_MFS, mfs)

-- Kind, length and experiment, then the stamp. Options of other experiments go to whoever had them before.
local mfs_option = Proto("mfs_option", "Multi-stage Flow Scheduling stamp in a TCP option")
local other_experiments = tcp_options:get_dissector(TCP_OPTION_KIND)

function mfs_option.dissector(buffer, packet, tree)
    if buffer:len() >= 4 and buffer(2, 2):uint() == TCP_OPTION_EXPERIMENT then
        if buffer:len() > 4 then
            add_stamp(buffer(4):tvb(), tree)
        else
            tree:add(mfs, buffer()):add_proto_expert_info(too_short)
        end
        return buffer:len()
    end
    return other_experiments and other_experiments:call(buffer, packet, tree) or 0
end

tcp_options:set(TCP_OPTION_KIND, mfs_option)
