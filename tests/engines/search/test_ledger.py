import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from optuna.trial import TrialState

from ttl_monai.engines.search import results as results_module
from ttl_monai.engines.search.cells import Cell
from ttl_monai.engines.search.ledger import Ledger, LedgerUnreachable
from ttl_monai.engines.search.process import is_dead, worker_id
from ttl_monai.engines.search.storage import check_url
from ttl_monai.engines.search.trials import TrialQueue

DEAD = worker_id().rpartition(":")[0] + ":1"  # this process id, but a process that began at another time


def make_cells(number):
    return [Cell("train", f"blocks.{index}", index % 2, f"{index:016x}") for index in range(number)]


def keys(cells):
    return [cell.key for cell in cells]


@pytest.fixture
def begin(tmp_path):
    def begin(name="search", storage=None, **settings):
        settings = {"study": "test", "space": {"seed": 1}, "patience_s": 2.0, **settings}
        return Ledger.create(tmp_path / name, storage, **settings)

    return begin


def test_cells_are_taken_in_order_and_end_as_results(begin):
    ledger, cells = begin(), make_cells(3)
    assert ledger.enqueue([*cells, cells[0]]) == 3
    assert ledger.states(keys(make_cells(4))) == dict.fromkeys(keys(cells), "waiting")
    claims = [ledger.claim("me") for _ in cells]
    assert [claim.cell for claim in claims] == cells
    assert ledger.claim("me") is None
    assert ledger.finish(claims[0], {"value": 0.25, "metrics": {"val_auroc": float("nan")}, "list": [(1, 2)]})
    ledger.fail(claims[1], "no reason")
    assert list(ledger.states(keys(cells)).values()) == ["done", "failed", "running"]
    assert ledger.failures() == {cells[1].key: "no reason"}
    (result,) = ledger.results().values()
    assert result.pop("finished").endswith("+00:00")
    assert result == {
        "value": 0.25,
        "metrics": {"val_auroc": None},
        "list": [[1, 2]],
        **cells[0].to_json(),
        "worker": "me",
        "attempt": 1,
        "run": f"runs/train-blocks.0-0-{cells[0].key}/attempt-1",
    }
    assert (ledger.folder / result["run"]).is_dir()


def test_enqueue_leaves_out_what_is_done_running_waiting_or_failed(begin):
    ledger, cells = begin(), make_cells(4)
    ledger.enqueue(cells)
    ledger.finish(ledger.claim("me"), {})
    ledger.fail(ledger.claim("me"), "broken")
    ledger.claim("me")
    assert ledger.enqueue(cells) == 0
    assert ledger.enqueue(cells, retry_failed=True) == 1
    assert ledger.failures() == {}
    assert [claim.cell.name for claim in iter(lambda: ledger.claim("me"), None)] == [cells[3].name, cells[1].name]


def test_first_result_stays(begin):
    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    early = ledger.claim(DEAD)
    assert ledger.reap() == 1
    late = ledger.claim("me")
    assert (early.attempt, late.attempt) == (1, 2)
    assert ledger.finish(early, {"value": 1})
    assert not ledger.finish(late, {"value": 2})
    assert ledger.results()[cell.key]["value"] == 1
    assert [path.name for path in (ledger.folder / "results").iterdir()] == [f"{cell.key}.json"]
    assert ledger.states([cell.key]) == {cell.key: "done"}


@pytest.mark.parametrize("taken", [False, True])
def test_results_are_kept_where_there_are_no_hard_links(begin, monkeypatch, taken):
    def no_link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    claim = ledger.claim("me")
    if taken:
        ledger.finish(claim, {"value": 1})
    monkeypatch.setattr(results_module.os, "link", no_link)
    assert ledger.finish(claim, {"value": 2}) != taken
    assert ledger.results()[cell.key]["value"] == (1 if taken else 2)
    assert len(list((ledger.folder / "results").iterdir())) == 1


def test_disk_that_is_full_is_no_result(begin, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    monkeypatch.setattr(results_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.finish(ledger.claim("me"), {})
    assert not list((ledger.folder / "results").iterdir())


@pytest.mark.parametrize("content", ["{", '{"key": "other"}', "[]"])
def test_result_that_was_changed_is_told(begin, content):
    ledger = begin()
    (ledger.folder / "results" / "00.json").write_text(content)
    with pytest.raises(ValueError, match=r"00\.json is not a result .* Delete it"):
        ledger.results()


def test_deleted_result_is_made_again(begin):
    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    ledger.finish(ledger.claim("me"), {})
    assert ledger.enqueue([cell]) == 0
    (ledger.folder / "results" / f"{cell.key}.json").unlink()
    assert ledger.results() == {}
    assert ledger.enqueue([cell]) == 1


def test_each_cell_is_claimed_once(begin):
    workers = 8
    ledger, cells = begin(patience_s=20.0), make_cells(6)
    ledger.enqueue(cells)
    claims, barrier = [], threading.Barrier(workers)

    def claim_all():
        mine = Ledger.join(ledger.url)
        barrier.wait()
        claims.extend(iter(lambda: mine.claim("someone"), None))

    threads = [threading.Thread(target=claim_all) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.cell.key for claim in claims) == keys(cells)


def test_two_workers_that_look_at_a_cell_at_once_do_not_both_take_it(begin, monkeypatch):
    ledger = begin(patience_s=20.0)
    ledger.enqueue(make_cells(1))
    # Optuna calls this between reading a state and writing it. Both meet there, unless one is kept from reading.
    between = threading.Barrier(2)

    def meet(trial_id, state):
        with contextlib.suppress(threading.BrokenBarrierError):
            between.wait(timeout=1.0)

    claims = []

    def claim():
        mine = Ledger.join(ledger.url)
        monkeypatch.setattr(mine._queue.storage.open(), "check_trial_is_updatable", meet)
        claims.append(mine.claim("someone"))

    threads = [threading.Thread(target=claim) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [claim is None for claim in claims].count(True) == 1


def test_attempt_after_a_loss_has_the_files_of_the_one_before(begin):
    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    first = ledger.claim(DEAD)
    (first.folder / "models").mkdir()
    (first.folder / "models" / "last.pt").write_bytes(b"epoch 3")
    (first.folder / ".last.pt.1.tmp").write_bytes(b"half")
    (first.folder.parent / ".attempt-2.tmp").mkdir()
    (first.folder.parent / ".attempt-2.tmp" / "half").touch()  # of a worker that died as it copied
    ledger.reap()
    second = ledger.claim("me")
    assert second.folder.name == "attempt-2"
    assert [path.name for path in second.folder.rglob("*")] == ["models", "last.pt"]
    (first.folder / "models" / "last.pt").write_bytes(b"epoch 4")  # the lost one wakes up
    assert (second.folder / "models" / "last.pt").read_bytes() == b"epoch 3"
    ledger.fail(second, "broken")
    ledger.enqueue([cell], retry_failed=True)
    third = ledger.claim("me")
    assert third.attempt == 3
    assert not list(third.folder.iterdir())  # what failed is done from the start


def test_released_cell_goes_on_in_its_folder(begin):
    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    claim = ledger.claim("me")
    (claim.folder / "last.pt").touch()
    ledger.release(claim)
    assert ledger.states([cell.key]) == {cell.key: "waiting"}
    again = ledger.claim("you")
    assert (again.folder, again.attempt) == (claim.folder, 1)
    assert list(again.folder.iterdir())
    # The first one has no say in it any more.
    ledger.fail(claim, "late")
    ledger.release(claim)
    assert ledger.states([cell.key]) == {cell.key: "running"}


def test_cell_whose_workers_are_lost_too_often_fails(begin):
    ledger, cells = begin(max_retries=2), make_cells(2)
    ledger.enqueue(cells)
    other = ledger.claim("me")
    assert other.cell == cells[0]
    for attempt in (1, 2, 3):
        assert ledger.claim(DEAD).attempt == attempt
        assert ledger.states(keys(cells)) == dict.fromkeys(keys(cells), "running")
        assert ledger.reap() == (attempt < 3)
    assert ledger.failures() == {cells[1].key: f"its worker was lost 3 times, the last one was {DEAD}"}
    assert ledger.claim("me") is None
    assert ledger.enqueue(cells, retry_failed=True) == 1
    assert ledger.claim(DEAD).attempt == 4
    assert ledger.reap() == 1  # a new count


def test_cell_of_a_worker_killed_while_taking_it_is_found(begin, monkeypatch):
    ledger, (cell,) = begin(heartbeat_s=1, grace_s=2), make_cells(1)
    ledger.enqueue([cell])
    storage = ledger._queue.storage.open()
    real = storage.set_trial_user_attr

    def die(trial_id, name, value):
        if name == "worker":
            raise KeyboardInterrupt
        real(trial_id, name, value)

    for worker, wait in ((DEAD, 0), ("of another machine", 3.2)):
        monkeypatch.setattr(storage, "set_trial_user_attr", die)
        with pytest.raises(KeyboardInterrupt):
            ledger.claim(worker)
        monkeypatch.setattr(storage, "set_trial_user_attr", real)
        assert ledger.states([cell.key]) == {cell.key: "running"}
        time.sleep(wait)
        assert ledger.reap() == 1
    assert ledger.claim("me").attempt == 3


def test_reapers_that_cross_each_other_cost_nothing(begin, monkeypatch):
    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    ledger.claim(DEAD)
    other = Ledger.join(ledger.url)
    # The first one dies between ending the lost trial and putting the cell in again.
    monkeypatch.setattr(TrialQueue, "add", lambda *_, **__: None)
    ledger.reap()
    assert ledger.states([cell.key]) == {cell.key: "waiting"}
    monkeypatch.undo()
    seen = other._queue.by_key()
    assert ledger.reap() == 1
    monkeypatch.setattr(other._queue, "by_key", lambda: seen)  # as if it had looked before
    assert other.reap() == 1
    monkeypatch.undo()
    first = ledger.claim("me")
    assert other.claim("you") is None  # the cell is in twice, and runs once
    ledger.finish(first, {})
    assert other.claim("you") is None
    assert not ledger._queue.trials((TrialState.WAITING, TrialState.RUNNING))


def test_ended_search_is_closed_until_it_is_begun_again(begin):
    ledger = begin()
    worker = Ledger.join(ledger.url)
    assert worker.is_open
    ledger.close()
    assert not worker.is_open
    begin()
    assert worker.is_open


def test_worker_of_other_settings_takes_nothing(begin):
    old, cells = begin(), make_cells(3)
    old.enqueue(cells[:2])
    running = old.claim("old")
    new = begin(space={"seed": 2})
    assert not old.is_open
    assert new.is_open
    assert new.claim("new") is None
    assert new.enqueue(cells[1:]) == 2
    assert old.claim("old") is None
    assert old.finish(running, {})  # its key says which settings it is of
    assert [claim.cell for claim in iter(lambda: new.claim("new"), None)] == cells[1:]
    assert Ledger.join(new.url).space == {"seed": 2}


def test_two_searches_share_a_database(begin, tmp_path):
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    first, second = begin("a", url, study="a"), begin("b", url, study="b")
    first.enqueue(make_cells(1))
    assert second.claim("me") is None
    assert Ledger.join(url, study="a").folder == tmp_path / "a"
    with pytest.raises(ValueError, match=r"expected the name of a search .* got None; it has: a, b"):
        Ledger.join(url)
    with pytest.raises(ValueError, match="got 'c'; it has: a, b"):
        Ledger.join(url, study="c")
    with pytest.raises(ValueError, match=r"has a search 'a' already, with its results in .*/a, not in .*/c"):
        begin("c", url, study="a")


def test_folder_may_be_moved_with_its_database(begin, tmp_path):
    ledger, cells = begin("before"), make_cells(2)
    ledger.enqueue(cells)
    ledger.finish(ledger.claim("me"), {})
    ledger.folder.rename(tmp_path / "after")
    moved = begin("after")
    assert moved.states(keys(cells)) == {cells[0].key: "done", cells[1].key: "waiting"}
    assert Ledger.join(moved.url).folder == tmp_path / "after"


def test_worker_that_does_not_see_the_folder_is_told(begin, tmp_path):
    url = begin("search", f"sqlite:///{tmp_path / 'queue.db'}").url
    (tmp_path / "search" / "results").rmdir()
    (tmp_path / "search").rename(tmp_path / "mounted")
    with pytest.raises(ValueError, match=r"search of the search 'test' is not to be seen from here.*--out"):
        Ledger.join(url)
    assert Ledger.join(url, folder=tmp_path / "mounted").folder == tmp_path / "mounted"


def test_odd_names_of_folders(begin):
    ledger = begin("a b%20{x}#q?é")
    ledger.enqueue(make_cells(1))
    assert Ledger.join(ledger.url).claim("me").cell == make_cells(1)[0]
    assert sorted(path.name for path in ledger.folder.iterdir()) == ["ledger.db", "results", "runs"]


def test_missing_database_is_not_made_by_a_worker(tmp_path):
    path = tmp_path / "ledger.db"
    started = time.monotonic()
    with pytest.raises(LedgerUnreachable, match=r"did not answer for 0.5 s \(.*unable to open.*Finished results are"):
        Ledger.join(f"sqlite:///{path}", patience_s=0.5)
    assert time.monotonic() - started < 10
    assert not path.exists()


def test_worker_waits_for_a_database_that_comes_late(begin):
    url = f"sqlite:///{begin().folder / 'ledger.db'}"
    path = begin().folder / "ledger.db"
    path.rename(path.with_suffix(".away"))
    timer = threading.Timer(0.5, lambda: path.with_suffix(".away").rename(path))
    timer.start()
    assert Ledger.join(url, patience_s=20.0).study == "test"
    timer.join()


def test_trial_of_a_new_database_is_not_taken_for_the_old_one(begin):
    ledger, cells = begin(), make_cells(2)
    ledger.enqueue(cells)
    claim = ledger.claim("me")
    (ledger.folder / "ledger.db").unlink()
    new = begin()
    new.enqueue(cells[1:])
    assert new.claim("me").trial_id == claim.trial_id
    assert ledger.finish(claim, {})
    ledger.fail(claim, "not that one")
    assert new.states(keys(cells)) == {cells[0].key: "done", cells[1].key: "running"}


def test_file_that_is_no_database_is_told(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_text("this is a text, and a long one, so that it is no empty database" * 20)
    with pytest.raises(LedgerUnreachable, match="not a database"):
        Ledger.join(str(path), patience_s=0.3)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////data/ledger.db", "sqlite:////data/ledger.db"),
        ("/data/ledger.db", "sqlite:////data/ledger.db"),
        ("postgresql://me@db:5433/ttl", "postgresql+psycopg://me@db:5433/ttl"),
        ("postgres://db/ttl?sslmode=require", "postgresql+psycopg://db/ttl?sslmode=require"),
        ("postgresql+psycopg://db/ttl", "postgresql+psycopg://db/ttl"),
    ],
)
def test_address_is_completed(url, expected):
    assert check_url(url) == expected


def test_relative_address_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_url("sqlite:///ledger.db") == check_url("ledger.db") == f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@db/ttl",
        "postgresql+psycopg://me:hunter2@db:1/ttl?sslmode=require",
        "postgresql://me@db/ttl?password=hunter2",
        "postgresql://me:@db/ttl?password=",
        "postgresql+psycopg2://me:hunter2@db/ttl",
        "mysql://me:hunter2@db/ttl",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_bad_address_is_refused_and_no_password_repeated(url, tmp_path):
    with pytest.raises(ValueError, match=r"PGPASSWORD|expected a queue at|needs a SQLite file") as caught:
        Ledger.create(tmp_path / "search", url, study="test", space={})
    assert "hunter2" not in str(caught.value)
    assert not list((tmp_path / "search").rglob("*"))


@pytest.mark.parametrize("settings", [{"heartbeat_s": 0}, {"heartbeat_s": 5, "grace_s": 5}, {"max_retries": -1}])
def test_bad_settings_are_refused(begin, settings):
    with pytest.raises(ValueError, match="expected heartbeat_s of at least 1, grace_s above it"):
        begin(**settings)


def test_result_that_json_cannot_hold_is_refused(begin):
    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    with pytest.raises(TypeError, match="not JSON serializable"):
        ledger.finish(ledger.claim("me"), {"value": object()})
    assert not list((ledger.folder / "results").iterdir())


def test_no_password_in_any_file_of_a_search(begin, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    ledger = begin()
    ledger.enqueue(make_cells(1))
    ledger.finish(ledger.claim("me"), {})
    assert not any(b"hunter2" in path.read_bytes() for path in ledger.folder.rglob("*") if path.is_file())


def test_death_of_a_process_is_known_only_on_its_machine():
    mine = worker_id()
    machine = mine.split(":")[0]
    assert not is_dead(mine)
    assert is_dead(DEAD)
    assert not is_dead(DEAD.replace(machine, "other-00000000"))
    assert not is_dead(f"{machine}:{os.getpid()}:0")  # a system that does not tell when processes begin
    assert not is_dead("someone")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = worker_id(child.pid)
    assert not is_dead(name)
    child.kill()
    while not is_dead(name):  # a zombie until it is waited for
        time.sleep(0.01)
    child.communicate()
    assert is_dead(name)


def test_results_are_whole_json_files(begin):
    ledger, (cell,) = begin(), make_cells(1)
    ledger.enqueue([cell])
    ledger.finish(ledger.claim("me"), {"value": 1.5})
    text = (ledger.folder / "results" / f"{cell.key}.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text)["value"] == 1.5
