// MFS on a top-of-rack switch, for TNA (Tofino) and T2NA (Tofino 2), where registered flows of RoCEv2 do not fit.
#include "architecture.p4"
#include "no_registration.p4"
#include "pipeline.p4"
