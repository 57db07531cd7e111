"""Jobs handed out: to processes, to Ray; what they tell, and what happens when one of them is gone."""

from __future__ import annotations

import json
import sys
import time
import types
from pathlib import Path

import pytest
from helpers.compiling import digests
from helpers.recommending import QUICK, TWO, Children

from onnxmtl.errors import DataError, MissingDependencyError, RunError
from onnxmtl.workflows import recommend
from onnxmtl.workflows.recommending import fanout, worker
from onnxmtl.workflows.recommending.fanout import CacheUnwritable, on_processes, on_ray
from onnxmtl.workflows.recommending.jobs import TrainingJob, all_pairs, pair_jobs, single_jobs
from onnxmtl.workflows.recommending.worker import WorkerSettings

SETTINGS = WorkerSettings("run", "cache", 1, "cpu", 50)
JOBS = single_jobs(("a", "b", "c", "d", "e"), (0,))

# A process that speaks the protocol and does what the job's task is called.
STAND_IN = """
import json, os, sys, time
settings = json.loads(sys.stdin.readline())
assert settings["threads"] == 1 and os.environ["OMP_NUM_THREADS"] == "1"
for line in sys.stdin:
    job = json.loads(line)
    {what}
    print(json.dumps({{"done": job["name"]}}), flush=True)
"""


def stand_in(monkeypatch, what="pass"):
    monkeypatch.setattr(fanout, "PROGRAM", STAND_IN.format(what=what))


def test_jobs_survive_json():
    jobs = [*JOBS, *pair_jobs(("a", "b", "c"), 3, all_pairs(3, [1, 3]), (4, 5))]
    assert [TrainingJob.from_json(json.loads(json.dumps(job.to_json()))) for job in jobs] == jobs
    assert len({job.name for job in jobs}) == len(jobs)
    assert jobs[5].groups == (((0, 1),), ((0,), (1,)), ((0,), (1,)))


@pytest.mark.parametrize("workers", [1, 3, 9])
def test_every_job_is_done_once(monkeypatch, workers):
    stand_in(monkeypatch)
    done = []
    on_processes(JOBS, SETTINGS, workers, done.append)
    assert sorted(job.name for job in done) == [job.name for job in JOBS]


def test_jobs_run_at_the_same_time(monkeypatch, tmp_path):
    """Each of two jobs waits for the other one's file: one after the other they would never end."""
    what = (
        f"folder = {str(tmp_path)!r}; open(os.path.join(folder, job['tasks'][0]), 'w').close()\n"
        "    while len(os.listdir(folder)) < 2: time.sleep(0.01)"
    )
    stand_in(monkeypatch, what)
    on_processes(JOBS[:2], SETTINGS, 2, lambda job: None)


def test_an_error_is_told_with_its_job_and_ends_the_others(monkeypatch):
    stand_in(
        monkeypatch,
        "job['tasks'] == ['b'] or time.sleep(60)\n"
        "    print(json.dumps({'error': 'DataError', 'text': 'sample 3 is broken'}), flush=True); continue",
    )
    start = time.perf_counter()
    with pytest.raises(DataError, match="single b: sample 3 is broken"):
        on_processes(JOBS[:2], SETTINGS, 2, lambda job: None)
    assert time.perf_counter() - start < 30


def test_a_process_that_is_killed_is_one_line(monkeypatch):
    stand_in(monkeypatch, "os.kill(os.getpid(), 9)")
    with pytest.raises(RunError, match=r"single a: the process that trained it was ended \(code -9\).*--resume"):
        on_processes(JOBS[:1], SETTINGS, 1, lambda job: None)


def test_without_a_cache_jobs_come_back(monkeypatch):
    stand_in(monkeypatch, "print(json.dumps({'error': 'CacheError', 'text': 'read-only'}), flush=True); continue")
    with pytest.raises(CacheUnwritable, match="read-only"):
        on_processes(JOBS[:1], SETTINGS, 1, lambda job: None)


def test_errors_of_any_kind_become_one_that_the_user_is_told():
    assert worker.told(DataError("x")) == {"error": "DataError", "text": "x"}
    assert worker.told(ZeroDivisionError("y"))["error"] == "RunError"
    with pytest.raises(RunError, match="single a: z"):
        fanout._check({"error": "NoSuchError", "text": "z"}, JOBS[0])


def test_several_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [fanout._gpu(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "6", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    assert fanout._gpu(0) == {}


class Ray(types.ModuleType):
    """As much of Ray as is used: actors are objects, results are there at once, the last one that was asked first."""

    def __init__(self, cpus=2, fails=""):
        super().__init__("ray")
        self.cpus, self.fails, self.actors, self.ended, self.resources = cpus, fails, 0, False, {}

    def is_initialized(self):
        return False

    def init(self, **options):
        if self.fails == "init":
            raise ConnectionError("nobody is\nthere")
        self.options = options

    def cluster_resources(self):
        return {"CPU": float(self.cpus)}

    def remote(self, **resources):
        self.resources = resources
        ray = self

        class Actor:
            def __init__(self, kind):
                self.kind = kind

            def remote(self, settings):
                ray.actors += 1
                return types.SimpleNamespace(do=types.SimpleNamespace(remote=lambda job: (ray, job["name"])))

        return Actor

    def wait(self, running, num_returns):
        return [running[-1]], running[:-1]

    def get(self, ended):
        if self.fails == ended[1]:
            raise OSError("worker died")
        return {"done": ended[1]}

    def shutdown(self):
        self.ended = True


@pytest.mark.parametrize(("address", "given"), [("local", None), ("auto", "auto"), ("10.0.0.1:6379", "10.0.0.1:6379")])
def test_ray_does_every_job_with_as_many_actors_as_there_is_room(monkeypatch, address, given):
    ray = Ray(cpus=2)
    monkeypatch.setitem(sys.modules, "ray", ray)
    done = []
    on_ray(JOBS, SETTINGS, address, done.append)
    assert sorted(job.name for job in done) == [job.name for job in JOBS]
    assert ray.actors == 2 and ray.ended and ray.options["address"] == given
    assert ray.resources == {"num_cpus": 1, "num_gpus": 0}


def test_ray_that_fails_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", Ray(fails="init"))
    with pytest.raises(RunError, match="--ray auto: Ray cannot be reached: nobody is there; start it"):
        on_ray(JOBS, SETTINGS, "auto", lambda job: None)
    ray = Ray(fails="single-task-2")
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(RunError, match="single b: its process on Ray ended: worker died; --resume goes on"):
        on_ray(JOBS, SETTINGS, "auto", lambda job: None)
    assert ray.ended


def test_without_ray_the_message_says_what_to_install(backbone, own_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "onnxmtl\[ray\]", or leave --ray out'):
        recommend(backbone, TWO, out=tmp_path / "run", data=f"{own_data}:fine", ray="local", **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # two processes that import torch
def test_processes_give_the_bytes_of_one(backbone, own_data, tmp_path, monkeypatch):
    options = {"data": f"{own_data}:fine", "blocks": 2, "train_top": 1, **QUICK}
    for name, workers in (("one", 1), ("two", 2)):
        monkeypatch.setenv("ONNXMTL_CACHE", str(tmp_path / f"cache-{name}"))
        recommend(backbone, TWO, out=tmp_path / name, workers=workers, **options)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.slow
def test_a_sample_that_is_broken_is_told_by_the_process(backbone, own_data, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXMTL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"\[1, 16, 16\] for depth"):
        recommend(
            backbone, TWO, out=tmp_path / "run", workers=2, data=f"{own_data}:shape", blocks=1, **{**QUICK, "steps": 9}
        )


@pytest.mark.slow
def test_killed_with_its_processes_at_work_a_run_ends_with_the_same_bytes(backbone, own_data, tmp_path):
    children = Children()
    options = {"data": f"{own_data}:fine", "blocks": 2, "workers": 2, **QUICK, "steps": 12}
    assert not children.run(backbone, tmp_path / "whole", options)
    child = children.start(backbone, tmp_path / "run", options)
    trainings = tmp_path / "run-cache" / "trainings"
    while child.is_alive() and not list(trainings.glob("*/checkpoints/step-*")):
        time.sleep(0.02)
    locks = [folder / "lock" for folder in trainings.iterdir()]
    assert child.is_alive() and locks
    child.kill()
    child.join()
    assert not children.run(backbone, tmp_path / "run", options)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    for lock in locks:  # the processes ended with the one that they worked for
        pid = int(lock.read_text())
        assert not Path(f"/proc/{pid}").exists() or b"onnxmtl" not in Path(f"/proc/{pid}/cmdline").read_bytes()
