"""Prefect's server killed in the middle, or none to be had; a schedule; Dask with a worker killed."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from copies import copied
from pinned_site import Site
from small_run import ROOT
from waiting import until

from storage.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def fresh(whole, tmp_path):
    copied(whole.root, tmp_path / "site", "store")
    return Site(tmp_path / "site")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment(site, **more):
    return site.environment() | {"OMP_NUM_THREADS": "1"} | more


def started(site, **more):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "bluemask.py"), "run", str(site.path)],
        env=environment(site, **more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def children(pid):
    """Processes below one, with their command lines."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return {int(row[0]): row[2] for row in rows if int(row[1]) == pid}


def server_of(pid):
    return next((child for child, words in children(pid).items() if "uvicorn" in words), None)


def alive(pid):
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_no_server_to_be_had(fresh, whole, tell):
    with started(fresh, PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api") as process:
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert "server was away" in said
    assert fresh.digests() == whole.digests()
    tell("no Prefect server to be had", 1, "the work finishes in the one process, and says so")


def test_the_server_dies_in_the_middle(fresh, whole, tell):
    with started(fresh) as process:
        until(lambda: list((fresh.store.root / "receipts").glob("augment/*.json")), 500)
        server = until(lambda: server_of(process.pid), 500)
        os.kill(server, signal.SIGKILL)
        process.communicate(timeout=800)
    if process.returncode:
        assert fresh.command("run", str(fresh.path)).returncode == 0
    assert fresh.digests() == whole.digests()
    assert list(verify(fresh.store)) == []
    how = "the work finishes" if process.returncode == 0 else "the next run resumes"
    tell("Prefect's server killed in the middle", 1, f"{how}; identical arrays")


def test_a_killed_run_leaves_no_server(fresh):
    with started(fresh) as process:
        until(lambda: list((fresh.store.root / "receipts").glob("ingest/*.json")), 500)
        server = until(lambda: server_of(process.pid), 500)
        process.kill()
        process.wait()
        until(lambda: not alive(server), 60)


def test_dask_with_two_workers_one_killed(fresh, whole, tell):
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    fresh.change(runner="dask", scheduler=address, workers=2, retries=2)
    env = environment(fresh, PYTHONPATH=str(ROOT))
    running = []

    def start(*words):
        process = subprocess.Popen([sys.executable, "-m", *words], env=env, stderr=subprocess.DEVNULL)
        running.append(process)
        return process

    try:
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        workers = [
            start(
                "distributed.cli.dask_worker", address, "--nworkers", "1", "--nthreads", "1", "--no-dashboard",
                "--resources", "accelerator=1", "--no-nanny", "--host", "127.0.0.1",
            )
            for _ in range(2)
        ]  # fmt: skip
        with started(fresh) as process:
            until(lambda: list((fresh.store.root / "receipts").glob("cam/*.json")), 500)
            servers = [pid for worker in workers if (pid := server_of(worker.pid))]
            workers[0].kill()
            said, _ = process.communicate(timeout=600)
    finally:
        for process_ in running:
            process_.kill()
            process_.wait()
    assert process.returncode == 0, said
    until(lambda: not any(map(alive, servers)), 60)
    assert fresh.digests() == whole.digests()
    assert list(verify(fresh.store)) == []
    tell("Dask: 2 workers in separate processes, one killed", 1, "finishes, identical arrays")


def test_deploy_all_and_a_scheduled_run_by_a_process_worker(fresh, whole, tell):
    """From nothing to a run by a schedule, with no network but loopback."""
    port = free_port()
    env = environment(
        fresh,
        PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        BLUEMASK_CONFIG=str(fresh.path),
        PREFECT_WORKER_QUERY_SECONDS="2",
        NO_COLOR="1",
    )
    fresh.change(alerts={"quarantined": 0.01})
    prefect = [str(Path(sys.executable).with_name("prefect"))]

    def run(*words):
        result = subprocess.run(
            [*prefect, *words], env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    running = [
        subprocess.Popen(
            [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
    ]  # fmt: skip
    try:
        until(
            lambda: (
                not subprocess.run(
                    [*prefect, "work-pool", "ls"], env=env, capture_output=True, check=False
                ).returncode
            ),
            200,
        )
        run("work-pool", "create", "bluemask", "--type", "process")
        run("--no-prompt", "deploy", "--all")
        listed = run("deployment", "ls")
        assert all(
            f"bluemask/{name}" in listed or f"bluemask-train/{name}" in listed
            for name in ("nightly", "generate", "train")
        )
        running.append(
            subprocess.Popen(
                [*prefect, "worker", "start", "--pool", "bluemask"], env=env, cwd=ROOT,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )
        )  # fmt: skip
        run("deployment", "run", "bluemask/nightly", "--watch")
        assert fresh.digests() == whole.digests()
        assert "bluemask-night" in run("artifact", "ls", "--limit", "50")
        (fresh.images / "blob" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
        loud = subprocess.run(
            [*prefect, "deployment", "run", "bluemask/nightly", "--watch"],
            check=False,
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert loud.returncode != 0, "an alert rule makes the run fail"
        assert "Failed" in loud.stdout + loud.stderr
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    tell("scheduled by prefect deploy --all and a process worker", 2, "runs; an alert makes it fail")


def test_the_schedule_is_one_at_a_time_with_a_time_zone():
    found = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    by_name = {item["name"]: item for item in found["deployments"]}
    assert set(by_name) == {"nightly", "generate", "train"}
    assert by_name["nightly"]["schedules"][0].keys() >= {"cron", "timezone"}
    assert (
        json.dumps(by_name["nightly"]["concurrency_limit"])
        == '{"limit": 1, "collision_strategy": "CANCEL_NEW"}'
    )
