"""What a worker does: take a cell, do it, give the result; until the search is over or it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.ledger import Claim, Ledger, LedgerUnreachable
from ttl_monai.engines.search.process import worker_id

logger = logging.getLogger(__name__)

Run = Callable[[Cell, Path], dict[str, Any]]
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def work(
    ledger: Ledger,
    run: Run,
    *,
    worker: str | None = None,
    poll_s: float = 1.0,
    stop: threading.Event | None = None,
    leave_when_empty: bool = False,
    check: Callable[[], None] | None = None,
) -> int:
    """Do cells of a search until it is over.

    A cell that raises is marked as failed with its reason, and the next one comes. SIGTERM and SIGINT stop the cell at
    hand, which goes back to the queue; they are heard only in a process's main thread.

    Args:
        ledger: the search.
        run: does one cell with a folder for its files, and gives its result as JSON values.
        worker: name of the worker; default: made from the process.
        poll_s: seconds between two looks at an empty queue.
        stop: when set, the worker stops after the cell at hand. It is set here when a signal stopped the worker.
        leave_when_empty: leave when nothing waits, not only when the search is closed.
        check: called for each cell that was taken; what it raises gives the cell back and ends the worker.

    Returns:
        The number of cells whose result was accepted.

    Raises:
        LedgerUnreachable: the database does not answer. Results were kept.
    """
    worker, stop, done = worker or worker_id(), stop or threading.Event(), 0
    with _listen() as signals:
        while not (signals.heard or stop.is_set()):
            ledger.reap()
            claim = ledger.claim(worker)
            if claim is not None:
                if check is not None:
                    _check(ledger, claim, check)
                done += _do(ledger, claim, run, signals)
            elif leave_when_empty or not ledger.is_open:
                break
            else:
                _wait(poll_s, stop, signals)
        if signals.heard:
            stop.set()
    return done


class _Stopped(BaseException):
    """A signal came while a cell was running. No `except Exception` of the training may catch it."""


class _Signals:
    """Whether a signal to stop was heard. Within `interruptible` it ends what runs; elsewhere it is only noted."""

    def __init__(self) -> None:
        self.heard = False
        self._raises = False
        self._pid = os.getpid()

    def __call__(self, number: int, _: types.FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process that loads data, forked while this handler was set
            os._exit(128 + number)
        self.heard = True
        if self._raises:
            self._raises = False
            raise _Stopped

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        self._raises = True
        try:
            if self.heard:
                raise _Stopped
            yield
        finally:
            self._raises = False


@contextmanager
def _listen() -> Iterator[_Signals]:
    """Hear the signals, and put the old handlers back."""
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {each: signal.signal(each, signals) for each in SIGNALS}
    try:
        yield signals
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _wait(seconds: float, stop: threading.Event, signals: _Signals) -> None:
    end = time.monotonic() + seconds
    # In slices: a handler must not set an Event, since the main thread may hold its lock.
    while time.monotonic() < end and not (signals.heard or stop.is_set()):
        time.sleep(min(0.1, seconds))


def _check(ledger: Ledger, claim: Claim, check: Callable[[], None]) -> None:
    try:
        check()
    except Exception:
        ledger.release(claim)
        raise


def _do(ledger: Ledger, claim: Claim, run: Run, signals: _Signals) -> bool:
    """Do one cell; whether its result was accepted."""
    name = claim.cell.name
    logger.info("%s: begun%s", name, f", attempt {claim.attempt}" if claim.attempt > 1 else "")
    try:
        with _heartbeat(ledger, claim), signals.interruptible():
            result = run(claim.cell, claim.folder)
        accepted = ledger.finish(claim, result)
    except (_Stopped, KeyboardInterrupt):
        signals.heard = True
        ledger.release(claim)
        logger.info("%s: stopped, back in the queue", name)
        return False
    except LedgerUnreachable:
        raise
    except Exception as error:
        reason = _reason(error)
        ledger.fail(claim, reason)
        logger.error("%s: failed: %s", name, reason, exc_info=os.environ.get("TTL_TRACEBACK") == "1")
        return False
    logger.info("%s: %s", name, "done" if accepted else "discarded, another worker's result was first")
    return accepted


@contextmanager
def _heartbeat(ledger: Ledger, claim: Claim) -> Iterator[None]:
    """Give signs of life from a thread."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(ledger.heartbeat_s):
            try:
                ledger.beat(claim)
            except Exception as error:  # whatever it is, the next beat may succeed, and the cell goes on
                logger.debug("No sign of life could be given: %s", error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1.0)


def _reason(error: Exception) -> str:
    """The error that was written for the user, in one line."""
    from ttl_monai.engines.workflow import told_cause  # imports MONAI, which a worker without errors may not need

    told = told_cause(error) or error
    text = " ".join(str(told).split())[:500]
    return text if isinstance(told, (ValueError, TypeError)) and text else f"{type(told).__name__}: {text}".rstrip(": ")
