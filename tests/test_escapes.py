"""The sandbox holds: a battery of ways out, none of which reaches anything, at every level that this system has."""

import escapes
import pytest

from pargolf.audit.sandbox import bubblewrap, child, landlock, seccomp
from pargolf.audit.sandbox.jail import Level
from pargolf.core.errors import UserError

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


def test_torch_trains_inside_on_threads():
    assert escapes.train(child.best_level()) == "the loss fell"


@pytest.mark.skipif(not any(AVAILABLE.values()), reason="the battery is for Linux")
def test_the_battery_reaches_something_where_nothing_guards():
    reached = escapes.attempt_unguarded()
    assert sum(got is not None for got in reached.values()) >= 60, reached


def test_where_nothing_can_guard_it_refuses_unless_told(monkeypatch):
    monkeypatch.setattr(child, "best_level", lambda: Level.NONE)
    with pytest.raises(UserError, match="--unsafe"), child.confined(escapes.ENTRY):
        pass
    with child.confined(escapes.ENTRY, files={"main.py": "answer.write(request.read())"}, unsafe=True) as one:
        assert one.ask(b"hello", most=9) == b"hello"
    assert one.guard.line().startswith("Sandbox: none") and one.guard.rows()["files"] == "not guarded"


def test_files_are_written_nowhere_else():
    with pytest.raises(AssertionError, match="outside"), child.confined(escapes.ENTRY, files={"../x": ""}, unsafe=True):
        pass
