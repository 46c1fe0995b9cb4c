// SPDX-License-Identifier: Apache-2.0
// Stamps, levels and progress in the kernel: the hooks of an interface: egress (tc clsact), ingress (XDP, or clsact).
//
// Sizes, offsets and numbers come from constants.h, which is generated from host_agent (python -m host_agent.ebpf.build).
#include "egress.h"
#include "ingress.h"
