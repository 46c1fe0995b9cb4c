"""The controller: what the switch should hold, written over P4Runtime, and tuned from what it counts."""
