from __future__ import annotations

import threading

from ckptd.shell.inbox import Inbox, Mail, Wake
from ckptd.shell.watching import Hint


def test_take_nothing_returns_after_the_timeout():
    """Without word the conductor wakes empty-handed."""
    assert Mail() == Inbox().take(0.01)


def test_take_merges_equal_word():
    """A hundred equal hints are one hint, and a repeated wake is one wake."""
    inbox = Inbox(gather_seconds=0.01)
    for _ in range(100):
        inbox.post_hint(Hint("/root", "run"))
        inbox.post(Wake.SCANNED)

    assert Mail(frozenset({Wake.HINT, Wake.SCANNED}), frozenset({Hint("/root", "run")})) == inbox.take(10)
    assert Mail() == inbox.take(0.01)


def test_hint_after_take_is_not_lost():
    """A hint that comes right after the conductor took the others wakes it again."""
    inbox = Inbox(gather_seconds=0.0)
    inbox.post_hint(Hint("/root", "a"))
    inbox.take(10)
    inbox.post_hint(Hint("/root", "b"))

    assert frozenset({Hint("/root", "b")}) == inbox.take(10).hints


def test_stop_ends_the_wait_of_another_thread():
    """A stop reaches a conductor that waits, at once and for good."""
    inbox = Inbox()
    waiting = threading.Thread(target=inbox.take, args=(60,))
    waiting.start()
    inbox.post(Wake.STOP)
    waiting.join(10)

    assert not waiting.is_alive()
    assert inbox.is_stopping
    assert Mail() == inbox.take(60)
