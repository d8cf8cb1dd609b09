"""Work: the same value however it is run, events in order, and nothing left behind by one that is stopped."""

import inspect
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.work import Work, working


def counted(total, log):
    """Count to `total`."""
    try:
        for i in range(total):
            yield Progress("count", i, total)
        log.append("ended")
        return total
    finally:
        log.append("tidied")


count = working(counted)


@given(st.integers(0, 9), st.integers(0, 12))
def test_the_value_is_the_same_however_much_was_iterated_before(total, seen):
    log = []
    work = count(total, log)
    events = [event for event, _ in zip(work, range(seen))]
    assert work.result() == total == work.result()
    assert [event.done for event in events] == list(range(min(seen, total)))
    assert log == ["ended", "tidied"] and list(work) == []


def test_work_inside_work_passes_events_on_and_gives_its_value():
    def twice(log):
        first = yield from count(2, log)
        second = yield from count(3, log)
        return first + second

    work = working(twice)([])
    assert len(list(work)) == 5 and work.result() == 5


def test_stopping_tidies_up_and_leaves_no_result():
    log = []
    with count(5, log) as work:
        next(work)
    assert log == ["tidied"] and list(work) == []
    with pytest.raises(UserError, match="stopped before it had a result"):
        work.result()
    done = count(0, log)
    assert done.result() == 0
    done.close()
    assert done.result() == 0


def test_an_error_is_raised_where_it_is_iterated_and_the_work_is_over():
    def failing():
        yield Progress("", 0, 1)
        raise ValueError("no")

    work = working(failing)()
    next(work)
    with pytest.raises(ValueError, match="no"):
        work.result()
    with pytest.raises(UserError):
        work.result()


def test_nothing_runs_before_it_is_asked_for_and_one_that_never_ran_says_so():
    log = []
    work = count(1, log)
    assert log == [] and "not begun" in repr(work)
    with pytest.warns(ResourceWarning, match=r"counted\(...\) never ran"):
        del work
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        work = count(1, log)
        work.result()
        del work


def test_a_call_keeps_its_own_signature_and_words():
    assert list(inspect.signature(count).parameters) == ["total", "log"]
    assert count.__doc__ == "Count to `total`." and isinstance(Work(counted(1, [])), Work)
