// The architecture: TNA for Tofino, T2NA for Tofino 2.
#ifndef MFS_TNA_ARCHITECTURE_P4
#define MFS_TNA_ARCHITECTURE_P4

#include <core.p4>
#if __TARGET_TOFINO__ == 2
#include <t2na.p4>
#else
#include <tna.p4>
#endif

#endif
