"""How long Hypothesis looks for a counterexample: `EBUS_HYPOTHESIS` is quick, ci or long."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def register_profiles() -> None:
    """Register the profiles quick, ci and long.

    None has a deadline: the machines are shared. quick is for the desk: different examples
    each time, and those that failed first. ci tries the same examples each time, so that a
    build fails for what has been changed and not by chance. long looks for what the others
    have not found, and is to be run at night.
    """
    # Not on top of the profile that Hypothesis itself loads when it finds CI set.
    shared_machine = settings(
        settings.get_profile("default"),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.register_profile("quick", shared_machine, max_examples=40, stateful_step_count=20)
    settings.register_profile(
        "ci",
        shared_machine,
        max_examples=80,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        print_blob=True,
    )
    settings.register_profile(
        "long", shared_machine, max_examples=5_000, stateful_step_count=60, print_blob=True
    )


def load_profile() -> None:
    """Load the profile that `EBUS_HYPOTHESIS` names: quick without it, ci where CI is set."""
    register_profiles()
    settings.load_profile(
        os.environ.get("EBUS_HYPOTHESIS") or ("ci" if os.environ.get("CI") else "quick")
    )
