# SPDX-License-Identifier: Apache-2.0
"""The newest item is processed, and an exception does not end the thread."""

from __future__ import annotations

import threading
from collections import Counter

from patience import PATIENCE

from diffkd_ros.nodes.perception.inference_thread import Account, InferenceThread


def test_a_newer_item_replaces_the_waiting_one_and_is_counted():
    started, go, done = threading.Event(), threading.Event(), threading.Event()
    taken = []

    def work(item):
        taken.append(item)
        started.set()
        assert go.wait(PATIENCE)
        if item == 4:
            done.set()
        return ''

    thread = InferenceThread(work, lambda error: None)
    thread.start()
    thread.submit(1)
    assert started.wait(PATIENCE)
    for item in (2, 3, 4):
        thread.submit(item)
    go.set()
    assert done.wait(PATIENCE)
    thread.stop()
    assert taken == [1, 4]
    account = thread.account()
    assert (account.received, account.used, account.overwritten) == (4, 2, 2)


def test_an_exception_is_reported_and_the_next_item_is_processed():
    errors, done = [], threading.Event()

    def work(item):
        if item == 0:
            raise ZeroDivisionError('zero')
        done.set()
        return 'unusable'

    reported = threading.Event()
    thread = InferenceThread(work, lambda error: (errors.append(error), reported.set()))
    thread.start()
    thread.submit(0)
    assert reported.wait(PATIENCE)
    thread.submit(1)
    assert done.wait(PATIENCE)
    thread.stop()
    assert [str(error) for error in errors] == ['zero']
    assert thread.account() == Account(received=2, failed=1, refused=Counter(unusable=1))


def test_an_item_is_pending_until_it_is_done_and_dropped_when_the_thread_is_drained():
    started, go = threading.Event(), threading.Event()

    def work(item):
        started.set()
        assert go.wait(PATIENCE)
        return ''

    thread = InferenceThread(work, lambda error: None)
    thread.start()
    thread.submit(1)
    assert started.wait(PATIENCE)
    thread.submit(2)
    assert thread.account() == Account(received=2, pending=2)
    thread.drain(timeout=0.0)
    assert thread.account() == Account(received=2, overwritten=1, pending=1)
    go.set()
    thread.drain(timeout=PATIENCE)
    assert thread.account() == Account(received=2, overwritten=1, used=1)
    thread.stop()
