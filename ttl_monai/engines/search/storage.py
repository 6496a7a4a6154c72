"""The database behind the ledger: its address, and calls that wait a while when it does not answer."""

from __future__ import annotations

import logging
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

logger = logging.getLogger(__name__)

T = TypeVar("T")
KINDS = "sqlite:///FILE (one machine), or postgresql://USER@HOST:PORT/DATABASE (many)"


class LedgerUnreachable(OSError):
    """The queue did not answer for as long as the ledger is patient. Results are files, so none is lost."""


def check_url(url: str) -> str:
    """The address of a queue, complete and free of secrets.

    Args:
        url: as the user gave it; a plain file name is taken as SQLite.

    Returns:
        `sqlite:///` with an absolute path, or `postgresql+psycopg://...`.

    Raises:
        ValueError: a password is in it, or it is neither of the two databases. The message never repeats a password.
    """
    if "://" not in url:
        url = f"sqlite:///{url}"
    scheme, rest = url.split("://", 1)
    if scheme == "sqlite":
        path = rest.removeprefix("/")
        if not path or path == ":memory:" or path.startswith("file:"):
            raise ValueError("the queue needs a SQLite file that other processes can open, as in sqlite:///ledger.db.")
        return f"sqlite:///{Path(path).absolute()}"
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ValueError(f"expected a queue at {KINDS}, got one of kind {scheme!r}.")
    parts = urlsplit(url)
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise ValueError(
            f"the address of the queue on {parts.hostname} has a password in it, where process lists, logs and scripts "
            "would show it. Leave it out; PostgreSQL's client reads PGPASSWORD or ~/.pgpass."
        )
    return f"postgresql+psycopg://{rest}"


class Storage:
    """Optuna's storage of one database, opened when first needed.

    Args:
        url: from `check_url`.
        create: make the database's tables, and the file of a SQLite database, when they are not there. Otherwise a
            missing file is an error: SQLite would make an empty one in its place, and the queue would seem empty.
        patience_s: seconds for which a call is tried again before it gives up.
    """

    def __init__(self, url: str, *, create: bool, patience_s: float) -> None:
        self.url = url
        self.heartbeat_s, self.grace_s = 60, 300
        self._create = create
        self._patience_s = patience_s
        self._opened: RDBStorage | None = None

    def call(self, action: Callable[[RDBStorage], T]) -> T:
        """Do something with the storage; wait and try again when the database does not answer.

        Args:
            action: may be called more than once, so it must be right to do it twice.

        Raises:
            LedgerUnreachable: there was no answer within the patience.
        """
        end, wait = time.monotonic() + self._patience_s, 0.1
        while True:
            try:
                return action(self.open())
            except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
                if time.monotonic() + wait >= end:
                    raise LedgerUnreachable(
                        f"the queue {self.url} did not answer for {self._patience_s:g} s ({_first_line(error)}). "
                        "Finished results are kept. When it is back, start the same command again."
                    ) from error
                logger.debug("The queue did not answer; trying again in %.1f s.", wait)
            time.sleep(wait)
            wait = min(2 * wait, 5.0)

    def open(self) -> RDBStorage:
        """The storage itself, for a single try without waiting."""
        if self._opened is None:
            self._opened = self._connect()
            self._create = False  # what vanishes later is not made anew
        self._opened.heartbeat_interval, self._opened.grace_period = self.heartbeat_s, self.grace_s
        return self._opened

    def _connect(self) -> RDBStorage:
        # Optuna's own start-up messages say nothing to a user of the search.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sqlite = self.url.startswith("sqlite")
        if sqlite and self._create:  # whatever opens the file from here on opens it as an existing one
            Path(self.url.removeprefix("sqlite:///")).touch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(
                "sqlite:///see-creator" if sqlite else self.url,
                engine_kwargs=_sqlite_kwargs(self.url, self._patience_s) if sqlite else _postgresql_kwargs(),
                heartbeat_interval=self.heartbeat_s,
                grace_period=self.grace_s,
                skip_table_creation=not self._create,
            )
        if sqlite:
            _lock_before_reading(storage.engine)
        return storage


def _sqlite_kwargs(url: str, patience_s: float) -> dict[str, Any]:
    # mode=rw opens the file only where it exists. An URL could say so, too, but SQLAlchemy 2.0 and 2.1 disagree on how
    # odd characters of a path are written in it. No pool: an open connection would go on writing into a moved file.
    address = f"file:{quote(url.removeprefix('sqlite:///'))}?mode=rw"

    def connect() -> sqlite3.Connection:
        timeout = min(5.0, patience_s / 4)
        return sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)

    return {"creator": connect, "poolclass": sqlalchemy.pool.NullPool}


def _postgresql_kwargs() -> dict[str, Any]:
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}}


def _lock_before_reading(engine: sqlalchemy.Engine) -> None:
    """Begin transactions with the write lock.

    Optuna reads a trial's state and then writes it. SQLite has no SELECT FOR UPDATE, and Python's driver begins a
    transaction only at the write, so two workers could both read WAITING and both take the trial.
    https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#enabling-non-legacy-sqlite-transactional-modes
    """

    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "begin", begin)


def _first_line(error: BaseException) -> str:
    """What the database itself said."""
    cause: BaseException = error.__cause__ or error
    told = str(getattr(cause, "orig", None) or cause).strip()
    return told.splitlines()[0] if told else type(cause).__name__
