import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ttl_monai.cli import main
from ttl_monai.cli import worker as worker_command
from ttl_monai.engines.search import run_cell as run_cell_module
from ttl_monai.engines.search import worker as worker_module
from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.ledger import Ledger
from ttl_monai.engines.search.space import Space
from ttl_monai.engines.search.worker import work


@pytest.fixture
def ledger(tmp_path):
    """A search of four cells."""
    ledger = Ledger.create(tmp_path / "search", study="test", space={}, heartbeat_s=1, grace_s=60, patience_s=2.0)
    ledger.enqueue(CELLS)
    return ledger


CELLS = [Cell("train", f"blocks.{index}", 0, f"{index:016x}") for index in range(4)]


def states(ledger):
    return list(ledger.states([cell.key for cell in CELLS]).values())


def wrapped():
    try:
        raise ValueError("the user's\n  error")
    except ValueError as error:
        raise RuntimeError("Failed to instantiate component") from error


def run_out():
    raise MemoryError


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (wrapped, "the user's error"),
        (lambda: {}["missing"], "KeyError: 'missing'"),
        (run_out, "MemoryError"),
        (lambda: Path("no-such").stat(), "FileNotFoundError: [Errno 2] No such file or directory: 'no-such'"),
        (lambda: {"value": object()}, "Object of type object is not JSON serializable"),
    ],
    ids=["wrapped", "bug", "memory", "file", "result"],
)
def test_cell_that_raises_fails_with_its_reason_and_the_next_comes(ledger, fault, reason):
    def run(cell, folder):
        return fault() if cell == CELLS[1] else {"value": 1.0}

    assert work(ledger, run, leave_when_empty=True) == 3
    assert ledger.failures() == {CELLS[1].key: reason}
    assert states(ledger) == ["done", "failed", "done", "done"]


def test_worker_stays_until_the_search_is_closed(ledger):
    timer = threading.Timer(1.0, ledger.close)
    timer.start()
    started = time.monotonic()
    assert work(ledger, lambda *_: {}, poll_s=0.05) == 4
    assert time.monotonic() - started >= 0.9
    timer.join()


def test_worker_that_fails_its_check_gives_the_cell_back(ledger):
    looks = []

    def check():
        looks.append(len(looks))
        if len(looks) == 3:
            raise ValueError("not those that the search was begun with")

    with pytest.raises(ValueError, match="not those"):
        work(ledger, lambda *_: {"value": 1.0}, check=check)
    assert states(ledger) == ["done", "done", "waiting", "waiting"]
    assert work(ledger, lambda *_: {"value": 1.0}, check=lambda: looks.append(3), leave_when_empty=True) == 2
    assert len(looks) == 5  # once a cell, not once a look at the queue


def test_worker_takes_cells_that_come_late(ledger):
    done = []

    def run(cell, folder):
        if cell == CELLS[3]:
            ledger.enqueue([Cell("probe", None, 0, "f" * 16)])
            ledger.close()  # what waits is done nevertheless
        done.append(cell.name)
        return {}

    assert work(ledger, run) == 5
    assert done[-1] == "probe-0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_gives_the_cell_back_and_the_old_handlers_too(ledger, number):
    stop, before = threading.Event(), [signal.getsignal(each) for each in worker_module.SIGNALS]

    def run(cell, folder):
        if cell == CELLS[1]:
            os.kill(os.getpid(), number)
            time.sleep(30)
        return {}

    assert work(ledger, run, stop=stop) == 1
    assert stop.is_set()
    assert states(ledger) == ["done", "waiting", "waiting", "waiting"]
    assert [signal.getsignal(each) for each in worker_module.SIGNALS] == before


def test_signal_while_the_result_is_written_waits(ledger, monkeypatch):
    def finish(claim, result):
        os.kill(os.getpid(), signal.SIGTERM)
        return type(ledger).finish(ledger, claim, result)

    monkeypatch.setattr(ledger, "finish", finish)
    assert work(ledger, lambda *_: {}) == 1
    assert states(ledger) == ["done", "waiting", "waiting", "waiting"]


def test_no_except_of_a_training_swallows_the_stop(ledger):
    def run(cell, folder):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except Exception:
            return {}

    assert work(ledger, run) == 0
    assert set(states(ledger)) == {"waiting"}


def test_stop_comes_after_the_cell_at_hand(ledger):
    stop = threading.Event()

    def run(cell, folder):
        stop.set()
        return {}

    assert work(ledger, run, stop=stop) == 1


def test_forked_process_that_is_terminated_leaves_the_worker_alone(ledger):
    statuses = []

    def run(cell, folder):
        heard, said = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(said, b"here")  # Python forgets the signals that come before
            time.sleep(30)
            os._exit(0)
        os.read(heard, 4)
        os.kill(child, signal.SIGTERM)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return {}

    assert work(ledger, run, leave_when_empty=True) == 4
    assert set(statuses) == {128 + signal.SIGTERM}


def test_signs_of_life_are_given_and_their_failure_is_borne(ledger, monkeypatch):
    beats = []

    def beat(claim):
        beats.append(claim.cell.name)
        raise OSError("gone")

    monkeypatch.setattr(ledger, "beat", beat)
    monkeypatch.setattr(ledger, "heartbeat_s", 0.1)
    assert work(ledger, lambda cell, _: time.sleep(0.5 if cell == CELLS[2] else 0) or {}, leave_when_empty=True) == 4
    assert beats.count(CELLS[2].name) >= 2
    count = len(beats)
    time.sleep(0.3)
    assert len(beats) == count


def test_sign_of_life_keeps_a_long_cell(tmp_path):
    ledger = Ledger.create(tmp_path / "search", study="test", space={}, heartbeat_s=1, grace_s=2)
    ledger.enqueue(CELLS[:1])
    reaped = []

    def run(cell, folder):
        for _ in range(8):
            time.sleep(0.5)
            reaped.append(ledger.reap())
        return {}

    assert work(ledger, run, worker="of another machine", leave_when_empty=True) == 1
    assert not any(reaped)


class Unchecked(dict):
    """In place of a space: its values as they came."""

    def check_sources(self):
        """Nothing to check."""


def test_command_sees_the_folders_as_this_machine_does(ledger, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(run_cell_module, "run_cell", lambda space, *_: seen.append(dict(space)) or {"value": 1.0})
    monkeypatch.setattr(Space, "from_json", Unchecked)
    words = ["--bundle", str(tmp_path / "b"), "--dataset_dir", str(tmp_path / "d")]
    assert main(["worker", "--storage", ledger.url, "--leave-when-empty", *words]) == 0
    assert (seen[0]["bundle"], seen[0]["dataset_dir"]) == (str(tmp_path / "b"), str(tmp_path / "d"))


def test_command_takes_nothing_where_configs_or_versions_differ(ledger, monkeypatch, capsys):
    class Other(dict):
        def check_sources(self):
            raise ValueError("not those that the search was begun with")

    monkeypatch.setattr(Space, "from_json", Other)
    assert main(["worker", "--storage", ledger.url, "--leave-when-empty"]) == 2
    assert "not those that the search was begun with" in capsys.readouterr().err
    assert set(states(ledger)) == {"waiting"}


def test_command_does_the_cells_of_a_search(ledger, monkeypatch, capsys):
    done = []

    def run_cell(space, cell, folder):
        done.append((space, cell.name))
        return {"value": 1.0}

    monkeypatch.setattr(run_cell_module, "run_cell", run_cell)
    monkeypatch.setattr(Space, "from_json", Unchecked)
    assert main(["worker", "--storage", ledger.url, "--leave-when-empty"]) == 0
    assert done == [({"folder": str(ledger.folder)}, cell.name) for cell in CELLS]
    assert "4 cells done" in capsys.readouterr().out
    assert main(["worker", "--storage", ledger.url, "--study", "other"]) == 2
    assert "got 'other'; it has: test" in capsys.readouterr().err


def test_command_that_is_stopped_asks_to_be_started_again(ledger, monkeypatch):
    monkeypatch.setattr(run_cell_module, "run_cell", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(30))
    monkeypatch.setattr(Space, "from_json", Unchecked)
    assert main(["worker", "--storage", ledger.url]) == worker_command.REQUEUE == 75
    assert set(states(ledger)) == {"waiting"}


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, None, None),
        ("2,3", None, "2,3"),
        (None, "cuda:1", "1"),
        ("2,3", "cuda:1", "3"),
        ("GPU-1a,GPU-2b", "cuda:0", "GPU-1a"),
        (None, "cpu", ""),
        ("2,3", "cpu", ""),
    ],
)
def test_process_is_confined_to_a_device(monkeypatch, visible, device, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    worker_command.pin(device, None)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is put back as it was


@pytest.mark.parametrize(
    ("visible", "device", "threads", "match"),
    [
        (None, "gpu", None, "expected --device cpu or cuda:N, got 'gpu'"),
        (None, "cuda", None, "expected --device cpu or cuda:N, got 'cuda'"),
        (None, "cuda:x", None, "expected --device"),
        ("0,1", "cuda:2", None, "cuda:2 is not to be seen: CUDA_VISIBLE_DEVICES is '0,1'"),
        ("", "cuda:0", None, "is not to be seen"),
        (None, None, 0, "expected --threads of at least 1, got 0"),
    ],
)
def test_bad_device_or_threads_are_refused(monkeypatch, visible, device, threads, match):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ValueError, match=match):
        worker_command.pin(device, threads)


def test_threads_are_set_before_torch_is_imported():
    code = (
        "import json, os, sys\n"
        "from ttl_monai.cli import worker\n"
        "early = 'torch' in sys.modules\n"
        "worker.pin('cpu', 1)\n"
        "import torch\n"
        "print(json.dumps([early, torch.get_num_threads(), torch.cuda.is_available()]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=120)
    assert json.loads(done.stdout) == [False, 1, False]


def test_follower_stops_when_its_parent_is_gone(tmp_path):
    # A parent that starts a follower and is killed; the follower hears SIGTERM and says so.
    follower = (
        "import os, signal, sys, time\n"
        "from ttl_monai.cli import worker\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[2], 'w').close(), os._exit(0)))\n"
        "print('ready', flush=True)\n"
        "import threading; threading.Thread(target=worker._follow, args=(int(sys.argv[1]),), daemon=True).start()\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid()), sys.argv[2]]).wait()\n"
    )
    marker = tmp_path / "stopped"
    process = subprocess.Popen([sys.executable, "-c", parent, follower, str(marker)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    time.sleep(1.5)
    assert not marker.exists()
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while not marker.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.stdout.close()
