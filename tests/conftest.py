"""How property tests run: the same examples each time, however slow the machine.

``pytest --hypothesis-profile=explore`` looks for others.
"""

from hypothesis import HealthCheck, settings

_SLOW_MACHINE = (HealthCheck.too_slow,)

settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=_SLOW_MACHINE)
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=_SLOW_MACHINE)
settings.load_profile("repeatable")
