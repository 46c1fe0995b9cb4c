// SPDX-License-Identifier: Apache-2.0
// Stamps, levels and progress in the kernel, on an interface's hooks: egress (tc clsact) and ingress (XDP or clsact), and
// on the sockets of a cgroup.
//
// Constants and structs shared with user space are in layout.h, which python -m host_agent.ebpf.build generates.
#include "egress.h"
#include "ingress.h"
#include "sockets.h"
