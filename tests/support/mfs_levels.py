"""The levels that the mfs policy gives (``mfs_ctrl/policy/builtin/mfs.toml``), by what they mean."""

REUSE_TIGHT = 6
REUSE_SOON = COLLECTIVE_TIGHT = 5
REUSE_LATER = COLLECTIVE_LOOSE = 4
LAST_TIGHT = 3
LAST_SOON = 2
LAST_LATER = 1
