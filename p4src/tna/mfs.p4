// MFS on a top-of-rack switch, for TNA (Tofino) and T2NA (Tofino 2), with registered flows of RoCEv2.
#include "architecture.p4"
#include "registration.p4"
#include "pipeline.p4"
