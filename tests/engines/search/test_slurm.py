import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ttl_monai.cli import main
from ttl_monai.engines.search.slurm import Job, slurm_script

URL = "postgresql://me@db.example:5432/ttl"


def directives(script):
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def worker_line(script):
    (line,) = [line for line in script.splitlines() if " worker " in line and line.endswith(" &")]
    return shlex.split(line.removesuffix("&"))


def test_script_says_what_is_asked_for():
    job = Job(workers=8, cpus=6, memory="24G", time="1-00:00:00", name="cut", options=("--partition=gpu", "-A=lab"))
    places = {"out": "/data/a $HOME `b`", "bundle": None, "dataset_dir": "/data/c"}
    script = slurm_script(job, storage=URL, python="/opt/my env/bin/python", study="x-rays", places=places)
    assert directives(script) == [
        "--job-name=cut",
        "--array=0-7",
        "--ntasks=1",
        "--cpus-per-task=6",
        "--gres=gpu:1",
        "--mem=24G",
        "--time=1-00:00:00",
        "--signal=B:USR1@120",
        "--requeue",
        "--open-mode=append",
        "--output=cut-%A_%a.log",
        "--partition=gpu",
        "-A=lab",
    ]
    command = ["/opt/my env/bin/python", "-m", "ttl_monai.cli", "worker", "--storage", URL, "--threads", "6"]
    assert worker_line(script) == [
        *command,
        "--study",
        "x-rays",
        *("--out", "/data/a $HOME `b`", "--dataset_dir", "/data/c"),
    ]
    # sbatch stops reading directives at the first command.
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert max(lines.index(f"#SBATCH {each}") for each in directives(script)) < lines.index("set -u")


def test_script_without_gpus_computes_on_the_cpu():
    script = slurm_script(Job(workers=1, gpus=0), storage=URL, python="python3")
    assert "--gres" not in script
    assert "--array=0-0" in directives(script)
    assert worker_line(script)[-2:] == ["--device", "cpu"]


def test_shell_accepts_the_script(tmp_path):
    path = tmp_path / "workers.sbatch"
    path.write_text(slurm_script(Job(workers=2), storage=URL, python=sys.executable))
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="Slurm is not installed")
def test_slurm_accepts_the_script(tmp_path):
    path = tmp_path / "workers.sbatch"
    path.write_text(slurm_script(Job(workers=2, gpus=0), storage=URL, python=sys.executable))
    subprocess.run(["sbatch", "--test-only", str(path)], check=True, timeout=60)


@pytest.mark.parametrize("status", [75, 0, 2])
@pytest.mark.parametrize("signalled", [None, signal.SIGUSR1, signal.SIGTERM], ids=["never", "limit", "cancelled"])
def test_task_is_queued_again_only_when_the_limit_stopped_its_worker(tmp_path, status, signalled):
    requeued = ["requeue 41_3"] if status == 75 and signalled == signal.SIGUSR1 else []
    # In place of Slurm's command and of the worker: shell scripts that tell what they were given.
    told, ready = tmp_path / "told", tmp_path / "ready"
    told.touch()
    scontrol, worker = tmp_path / "scontrol", tmp_path / "python"
    scontrol.write_text(f'#!/bin/bash\necho "$@" >> {told}\n')
    # A worker that is told to stop takes a moment to give its cell back.
    stopping = f"trap 'sleep 0.3; echo gave back >> {told}; exit {status}' TERM; mkfifo {ready}; read -r _ <> {ready}"
    worker.write_text(f"#!/bin/bash\n{stopping if signalled else f'exit {status}'}\n")
    for path in (scontrol, worker):
        path.chmod(0o755)
    script = tmp_path / "workers.sbatch"
    script.write_text(slurm_script(Job(workers=4), storage=URL, python=str(worker)))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "3"}
    process = subprocess.Popen(["bash", str(script)], env=environment)
    try:
        if signalled:
            while not ready.exists():
                assert process.poll() is None
            time.sleep(0.2)  # until the script has noted the worker's number
            process.send_signal(signalled)  # to the shell of the script alone, as --signal=B: does
        assert process.wait(timeout=30) == status
    finally:
        process.kill()
        process.wait()
    assert told.read_text().splitlines() == [*(["gave back"] if signalled else []), *requeued]


@pytest.mark.parametrize(
    ("settings", "storage", "match"),
    [
        ({}, "sqlite:////data/ledger.db", "expected a queue that many nodes can share.*got a SQLite file"),
        ({}, "postgresql://me:hunter2@db/ttl", "has a password in it"),
        ({"workers": 0}, URL, "at least 1 worker"),
        ({"cpus": 0}, URL, "at least 1 worker and 1 core"),
        ({"gpus": 2}, URL, "0 or 1 GPU each, got 1, 4 and 2"),
        ({"memory": "16G\nrm"}, URL, "expected one word"),
        ({"name": "my job"}, URL, "expected one word.*'my job'"),
        ({"time": ""}, URL, "expected one word"),
        ({"options": ("--wrap='x'",)}, URL, "expected one word"),
    ],
)
def test_what_slurm_would_misread_is_refused(settings, storage, match):
    with pytest.raises(ValueError, match=match):
        slurm_script(Job(**{"workers": 1, **settings}), storage=storage, python="python3")


def test_command_writes_the_script_once(tmp_path, capsys):
    path = tmp_path / "my workers.sbatch"
    words = ["slurm", "--storage", URL, "--workers", "3", "--out", str(path), "--sbatch=--partition=gpu"]
    assert main(words) == 0
    assert f"sbatch '{path}'" in capsys.readouterr().out
    script = path.read_text()
    assert directives(script)[-1] == "--partition=gpu"
    assert worker_line(script)[0] == sys.executable
    assert main([*words, "--cpus", "2"]) == 2
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert path.read_text() == script
    assert main([*words, "--cpus", "2", "--overwrite"]) == 0
    assert "--cpus-per-task=2" in path.read_text()
