"""The sandbox holds: a battery of ways out, none of which reaches anything, at every level that this system has."""

import escapes
import pytest

from pargolf.audit.sandbox import bubblewrap, landlock, seccomp
from pargolf.audit.sandbox.jail import Level

AVAILABLE = {
    Level.BUBBLEWRAP: seccomp.supported() and bubblewrap.works(),
    Level.KERNEL: seccomp.supported() and landlock.version() >= landlock.ENOUGH,
}


@pytest.mark.parametrize("level", AVAILABLE)
def test_no_way_leads_out(level):
    if not AVAILABLE[level]:
        pytest.skip(f"this system has no {level}")
    reached = escapes.attempt(level)
    assert len(reached) >= 60
    assert {name: got for name, got in reached.items() if got is not None} == {}
