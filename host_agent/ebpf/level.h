// SPDX-License-Identifier: Apache-2.0
// Level of a packet: the decision, as in host_agent/protocol/level.py, and the ratchet of open flows.
#pragma once
#include "maps.h"

// Returns the 8-bit logarithmic code of a number, as log2_code in level.py does.
INLINE u32 log2_code(u32 value)
{
    u32 v = value, exponent = 0;

    if (value <= 1)
        return 0;
    if (v >> 16) { exponent += 16; v >>= 16; }
    if (v >> 8) { exponent += 8; v >>= 8; }
    if (v >> 4) { exponent += 4; v >>= 4; }
    if (v >> 2) { exponent += 2; v >>= 2; }
    if (v >> 1) { exponent += 1; }
    return exponent * CODE_STEPS + (u32)((((u64)value << 3) >> exponent) & 7);
}

INLINE u32 within(u32 value, struct interval interval)
{
    // One comparison, no branch: the verifier would have to follow both paths of a branch for each rule.
    return (u32)(value - interval.low) <= (u32)(interval.high - interval.low);
}

// Returns the level that decide(level_key(...)) in level.py returns. rli is the relative layer index; slack is in
// microseconds, remaining in units of the stamp.
INLINE u32 decide(const struct policy *policy, u32 stage, u32 rli, s32 slack, u32 remaining)
{
    u32 late = slack <= 0;
    u32 slack_code = late ? 0 : log2_code((u32)slack);
    u32 remaining_code = log2_code(remaining);
    s32 wide = (s32)(remaining_code + policy->bias) - (s32)slack_code;
    u32 urgency = late || wide > CODE_MAX ? CODE_MAX : wide < 0 ? 0 : (u32)wide;
    u32 count = policy->count;

    for (u32 i = 0; i < RULES_MAX; i++) {
        const struct rule *rule = &policy->rules[i];
        if (i >= count)
            break;
        if ((rule->stage == stage) & within(late, rule->late) & within(rli, rule->rli) &
            within(urgency, rule->urgency) & within(slack_code, rule->slack_code) &
            within(remaining_code, rule->remaining_code))
            return rule->level & (LEVELS - 1);
    }
    return policy->default_level & (LEVELS - 1);
}

// Returns the level to use, given the level held so far + 1 (0 before the first packet) and the level decided now. It
// rises only where a message starts. It falls only to the scavenger, which can happen at any time.
INLINE u32 ratchet(u32 held, u32 decided, u32 at_boundary)
{
    if (!held)
        return decided;
    held -= 1;
    if (decided > held)
        return at_boundary ? decided : held;
    return decided == SCAVENGER ? decided : held;
}
