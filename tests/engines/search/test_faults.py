"""What befalls workers and their queue. Two processes each, with cells that sleep; no fault may cost a result."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.ledger import Ledger

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

STUB = Path(__file__).with_name("stub_worker.py")
PATIENCE = 60.0  # for what should take a second or two; the machine may be busy


def make_cells(number):
    return [Cell("train", f"blocks.{index}", 0, f"{index:016x}") for index in range(number)]


def wait_until(condition, told):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.02)


class Crew:
    """The workers of a test, and what they told."""

    def __init__(self, folder):
        self.folder, self.processes, self.logs = folder, [], []
        folder.mkdir()

    def start(self, url, seconds, *words, env=None):
        log = self.folder / f"worker{len(self.processes)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, str(STUB), url, str(seconds), *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            )
        self.processes.append(process)
        self.logs.append(log)
        return process

    def told(self):
        return "\n".join(log.read_text() for log in self.logs)

    def events(self):
        """(event, cell, pid) in order."""
        path = self.folder / "search" / "events.txt"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(event, cell, int(pid)) for event, cell, pid in rows]

    def wait_for_event(self, event, number=1, pid=None):
        wait_until(
            lambda: len([1 for e, _, p in self.events() if e == event and pid in (None, p)]) >= number, self.told
        )

    def begun(self):
        return Counter(cell for event, cell, _ in self.events() if event == "begin")

    def wait_for_end(self, ledger):
        """Close the search when nothing is left, and wait for the workers that live."""
        wait_until(lambda: not ({"waiting", "running"} & set(all_states(ledger).values())), self.told)
        ledger.close()
        for process in self.processes:
            process.wait(timeout=PATIENCE)

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(timeout=PATIENCE)


def all_states(ledger):
    return ledger.states([cell.key for cell in make_cells(30)])


@pytest.fixture
def crew(tmp_path):
    crew = Crew(tmp_path / "crew")
    yield crew
    crew.stop()


@pytest.fixture
def begin(crew):
    """Begin a search of some cells."""

    def begin(number, storage=None, **settings):
        settings = {"study": "test", "space": {}, "heartbeat_s": 1, "grace_s": 300, "patience_s": 5.0, **settings}
        ledger = Ledger.create(crew.folder / "search", storage, **settings)
        ledger.enqueue(make_cells(number))
        return ledger

    return begin


def test_cell_of_a_killed_worker_is_done_by_another(crew, begin):
    ledger = begin(5)
    victim = crew.start(ledger.url, 0.5)
    crew.start(ledger.url, 0.5)
    crew.wait_for_event("begin", pid=victim.pid)
    victim.send_signal(signal.SIGKILL)  # not waited for: a zombie is dead, too
    crew.wait_for_end(ledger)
    lost = [cell for event, cell, pid in crew.events() if pid == victim.pid and event == "begin"]
    finished = {cell for event, cell, pid in crew.events() if pid == victim.pid and event == "end"}
    (lost,) = [cell for cell in lost if cell not in finished]
    assert crew.begun() == {cell.name: 2 if cell.name == lost else 1 for cell in make_cells(5)}
    results = ledger.results()
    assert len(results) == 5
    assert {key: result["attempt"] for key, result in results.items()} == {
        cell.key: 2 if cell.name == lost else 1 for cell in make_cells(5)
    }


def test_after_all_workers_were_killed_nothing_finished_is_done_again(crew, begin):
    ledger = begin(6)
    first = [crew.start(ledger.url, 0.4) for _ in range(2)]
    crew.wait_for_event("end", 2)
    for process in first:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in results_of(crew)}
    assert 1 <= len(kept) < 6
    again = begin(6)
    assert again.enqueue(make_cells(6)) == 0
    crew.start(again.url, 0.1)
    crew.wait_for_end(again)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in results_of(crew)}
    assert len(after) == 6
    assert kept.items() <= after.items()
    done = {result["point"] for key, result in again.results().items() if f"{key}.json" in kept}
    assert all(crew.begun()[f"train-{point}-0"] == 1 for point in done)


def results_of(crew):
    return list((crew.folder / "search" / "results").glob("*.json"))


def test_failing_cell_is_marked_and_the_others_are_done(crew, begin):
    ledger = begin(5)
    for _ in range(2):
        crew.start(ledger.url, 0.1, "train-blocks.2-0")
    crew.wait_for_end(ledger)
    assert ledger.failures() == {make_cells(5)[2].key: "this cell cannot be done"}
    assert Counter(all_states(ledger).values()) == {"done": 4, "failed": 1}
    assert crew.begun()["train-blocks.2-0"] == 1


def test_late_result_of_a_worker_that_slept_is_discarded(crew, begin):
    ledger = begin(1, grace_s=2)
    sleeper = crew.start(ledger.url, 1.0)
    crew.wait_for_event("begin")
    sleeper.send_signal(signal.SIGSTOP)
    crew.start(ledger.url, 0.1)
    crew.wait_for_event("end")
    wait_until(lambda: results_of(crew), crew.told)
    (path,) = results_of(crew)
    accepted = path.read_bytes()
    sleeper.send_signal(signal.SIGCONT)
    crew.wait_for_end(ledger)
    assert path.read_bytes() == accepted
    (result,) = ledger.results().values()
    assert f":{crew.processes[1].pid}:" in result["worker"]
    assert result["attempt"] == 2
    assert crew.begun() == {"train-blocks.0-0": 2}
    assert "discarded" in crew.logs[0].read_text()
    assert sleeper.returncode == 0


@pytest.mark.parametrize("fault", ["locked", "vanished"])
def test_without_its_database_a_worker_keeps_the_result_and_stops(crew, begin, fault):
    ledger = begin(4)
    database = crew.folder / "search" / "ledger.db"
    worker = crew.start(ledger.url, 0.5)
    crew.wait_for_event("begin", 2)
    if fault == "locked":
        holder = sqlite3.connect(database, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
    else:
        database.rename(crew.folder / "elsewhere.db")
    worker.wait(timeout=PATIENCE)
    told = [line for line in crew.told().splitlines() if line.startswith("error:")]
    assert worker.returncode == 1
    assert len(told) == 1
    assert "did not answer for 2 s" in told[0]
    assert ("locked" if fault == "locked" else "unable to open") in told[0]
    assert "Traceback" not in crew.told()
    assert len(results_of(crew)) == 2  # the cell at hand was finished and kept
    if fault == "locked":
        holder.close()
    else:
        assert not database.exists()  # no empty one in its place
    again = begin(0)
    assert again.enqueue(make_cells(4)) == (0 if fault == "locked" else 2)
    crew.start(again.url, 0.1)
    crew.wait_for_end(again)
    assert crew.begun() == {cell.name: 1 for cell in make_cells(4)}
    assert set(all_states(again).values()) == {"done"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_worker_gives_its_cell_back(crew, begin, number):
    ledger = begin(1)
    worker = crew.start(ledger.url, 5.0)
    steps = crew.folder / "search/runs/train-blocks.0-0-0000000000000000/attempt-1/steps.txt"
    wait_until(lambda: steps.exists() and steps.read_text(), crew.told)
    worker.send_signal(number)
    worker.wait(timeout=PATIENCE)
    assert worker.returncode == 0, crew.told()
    assert "Traceback" not in crew.told()
    assert all_states(ledger) == {make_cells(1)[0].key: "waiting"}
    crew.start(ledger.url, 0.1)
    crew.wait_for_end(ledger)
    (result,) = ledger.results().values()
    assert result["attempt"] == 1  # being stopped is no loss
    assert 1 <= result["resumed_after"] < 10


@pytest.fixture
def postgresql(monkeypatch):
    """A server of this test alone, on loopback with a password: (address without it, function to stop or start it)."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: no initdb (Debian package postgresql)")
    binaries = Path(initdb).resolve().parent
    # PostgreSQL refuses to run as root; pytest's own folders cannot be seen by another user.
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="ttl-postgresql-") as folder:
        data, secret = Path(folder) / "data", Path(folder) / "secret"
        secret.write_text("not-in-the-address\n")
        if prefix:
            for path in (Path(folder), secret):
                shutil.chown(path, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def call(name, *words):
            command = [*prefix, str(binaries / name), "-D", str(data), *words]
            subprocess.run(command, check=True, timeout=PATIENCE, cwd=folder, stdout=subprocess.DEVNULL)

        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = str(Path(folder) / "log")

        def serve(up):
            call("pg_ctl", "start", "-w", "-l", log, "-o", options) if up else call("pg_ctl", "stop", "-m", "immediate")

        call("initdb", "-U", "ttl", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        monkeypatch.setenv("PGPASSWORD", "not-in-the-address")
        serve(True)
        try:
            yield f"postgresql://ttl@127.0.0.1:{port}/postgres", serve
        finally:
            if (data / "postmaster.pid").exists():
                serve(False)


@pytest.mark.slow
def test_faults_with_postgresql(crew, begin, postgresql):
    address, serve = postgresql
    ledger = begin(12, address, grace_s=2)
    # Each cell is claimed once, however many try.
    claims, lock = [], threading.Lock()

    def claim_all():
        mine = Ledger.join(address)
        while claim := mine.claim("someone"):
            with lock:
                claims.append(claim)

    threads = [threading.Thread(target=claim_all) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.cell.key for claim in claims) == [cell.key for cell in make_cells(12)]
    for claim in claims:
        ledger.release(claim)
    # One worker is killed, one sleeps for longer than the grace.
    victim, sleeper = crew.start(address, 0.5), crew.start(address, 0.5)
    crew.wait_for_event("begin", pid=victim.pid)
    crew.wait_for_event("begin", pid=sleeper.pid)
    victim.send_signal(signal.SIGKILL)
    sleeper.send_signal(signal.SIGSTOP)
    worker = crew.start(address, 0.5)
    wait_until(lambda: any(result["attempt"] == 2 for result in ledger.results().values()), crew.told)
    sleeper.send_signal(signal.SIGCONT)
    # The server dies: the workers keep what they have and stop.
    crew.wait_for_event("end", 6)
    serve(False)
    for process in (sleeper, worker):
        process.wait(timeout=PATIENCE)
        assert process.returncode == 1
    assert crew.told().count("error:") == 2
    assert "did not answer for 2 s" in crew.told()
    assert "not-in-the-address" not in crew.told()
    kept = {path.name: path.read_bytes() for path in results_of(crew)}
    assert len(kept) >= 6
    serve(True)
    again = begin(12, address, grace_s=2)
    crew.start(address, 0.1)
    crew.wait_for_end(again)
    assert set(all_states(again).values()) == {"done"}
    assert len(results_of(crew)) == 12
    assert kept.items() <= {path.name: path.read_bytes() for path in results_of(crew)}.items()
    again.close()
