"""Labels by real Dask workers: the same numbers, whoever is killed; workers that do not fit are refused."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.tiny_pipelines import PROMPTS, dit

import qsd
from qsd.bank import Bank
from qsd.cli.processes import pool_of
from qsd.configs.sampling import sample_configs
from qsd.evaluation import EvaluationSettings
from qsd.labels import Job, Measurer
from qsd.labels import cluster as cluster_module
from qsd.labels.cluster import ClusterPool, _Opening
from qsd.labels.leaving_out import Failure, check_complete
from qsd.labels.shards import Shard
from qsd.support.errors import QsdError

Status = pytest.importorskip("distributed").Status

_KILLED = """
import os, signal, sys
from qsd.evaluation import EvaluationSettings
from qsd.labels import Measurer
from qsd.labels.cluster import ClusterPool

scheduler, pipeline, bank = sys.argv[1:]
prompts = os.path.join(os.path.dirname(bank), "prompts.txt")
ClusterPool(Measurer, pipeline, bank, EvaluationSettings(prompts=prompts), scheduler=scheduler)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny pipeline on disk, its bank, settings, and a file that describes a cluster of two."""
    folder = tmp_path_factory.mktemp("cluster")
    dit().save_pretrained(folder / "pipeline")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "local.yaml").write_text("kind: local\nworkers: 2\n")
    settings = EvaluationSettings(
        prompts=str(folder / "prompts.txt"), num_images=2, steps=1, guidance=1.0, batch_size=2
    )
    pipe = qsd.load_pipeline(folder / "pipeline")
    bank = qsd.build_bank(pipe, ["uaq-3", "uaq-4"])
    bank.save(folder / "bank.safetensors")
    return SimpleNamespace(
        pipe=pipe,
        bank=bank,
        settings=settings,
        pipeline=folder / "pipeline",
        file=folder / "bank.safetensors",
    )


def test_a_killed_worker_and_a_bad_config(work: SimpleNamespace) -> None:
    configs = sample_configs(work.bank.options, len(work.bank.layers), 5, 0, 0, work.bank.available)
    jobs = [Job(index, config, 0) for index, config in enumerate(configs)]
    bad = Job(99, np.zeros(1, np.int8), 0)
    expected = {
        job.index: labels for job, labels, _ in Measurer(work.pipe, work.bank, work.settings).run(jobs)
    }
    found: dict[int, dict[str, float]] = {}
    failures: list[Failure[Job]] = []
    description = work.pipeline.parent / "local.yaml"
    pool: ClusterPool[Job, Any] = ClusterPool(
        Measurer, work.pipeline, work.file, work.settings, cluster=description
    )
    with pool:
        for result in pool.run([*jobs, bad]):
            if isinstance(result, Failure):
                failures.append(result)
                continue
            if not found:
                pids = pool._client.run(os.getpid)
                os.kill(next(iter(pids.values())), signal.SIGKILL)
            job, labels, _ = result
            found[job.index] = labels
    assert found == expected  # bit for bit
    assert [failure.item.index for failure in failures] == [99]
    with pytest.raises(QsdError, match=r"1 left out, such as .*; all others are stored"):
        check_complete(failures)


def test_a_scheduler_serves_one_run_at_a_time(
    work: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from distributed import Client, LocalCluster

    other = work.pipeline.parent / "other.safetensors"
    qsd.build_bank(work.pipe, ["uaq-2", "uaq-8"]).save(other)
    jobs = [Job(index, np.full(len(work.bank.layers), index % 2, np.int8), 0) for index in range(4)]
    expected = {
        job.index: labels for job, labels, _ in Measurer(work.pipe, work.bank, work.settings).run(jobs)
    }
    monkeypatch.setattr(cluster_module, "_PATIENCE", 1)
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address

        def pool(bank: Path) -> ClusterPool[Job, Any]:
            return ClusterPool(Measurer, work.pipeline, bank, work.settings, scheduler=address)

        def plugins() -> list[str]:
            with Client(address, set_as_default=False) as client:
                names = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.worker_plugins))
            return [name for name in names if name.startswith("qsd-")]

        with pool(work.file) as first:
            assert first.workers == 0
            starting = threading.Timer(2, cluster.scale, [1])
            starting.start()
            results = first.run(jobs)
            job, labels, _ = next(results)
            found = {job.index: labels}
            with pytest.raises(QsdError, match="another qsd is at work on these workers"):
                pool(other)
            found |= {job.index: labels for job, labels, _ in results}
            assert first.workers == 1
        assert "no worker has joined" in caplog.text
        assert found == expected
        assert not plugins()
        child = subprocess.run([sys.executable, "-c", _KILLED, address, *map(str, (work.pipeline, other))])
        assert child.returncode == -signal.SIGKILL
        assert len(plugins()) == 1
        with pool(work.file) as last:
            assert len(plugins()) == 1
            assert {job.index: labels for job, labels, _ in last.run(jobs)} == expected


def worker_of(nthreads: int = 1, memory: float = 0.0) -> SimpleNamespace:
    """What is asked of a worker; it has 8 GiB and has taken this share of them."""
    return SimpleNamespace(
        address="tcp://w:1",
        state=SimpleNamespace(nthreads=nthreads),
        memory_manager=SimpleNamespace(memory_limit=8 << 30, memory_pause_fraction=0.8),
        monitor=SimpleNamespace(get_process_memory=lambda: memory * (8 << 30)),
        status=Status.paused,
    )


def refusal(work: SimpleNamespace, nthreads: int = 1, memory: float = 0.0, **changes: Any) -> str:
    opening = _Opening(Measurer, str(work.pipeline), str(work.file), work.settings, "cpu")
    vars(opening).update(changes)
    opening.open(worker_of(nthreads, memory))
    assert cluster_module._refused is not None
    assert cluster_module._work(opening.key, 0) is cluster_module._refused
    assert "another qsd uses it" in cluster_module._work("key of another run", 0).reason
    return cluster_module._refused.reason


def test_workers_that_do_not_fit_are_refused(work: SimpleNamespace, tmp_path: Path) -> None:
    assert refusal(work, versions={"torch": "0.1"}).startswith("has torch 2.")
    assert "and 0.1 is asked for" in refusal(work, versions={"torch": "0.1"})
    assert refusal(work, bank_hash="0" * 32).startswith("has another bank at ")
    assert refusal(work, bank=str(tmp_path / "absent")).startswith("sees no ")
    assert "--nthreads 1" in refusal(work, nthreads=2)
    assert refusal(work, memory=0.9).startswith("may take 8.0 GiB of memory, and 7.2 GiB are taken before")
    assert "absent" in refusal(work, settings=dataclasses.replace(work.settings, prompts="absent.txt"))


def test_a_worker_never_pauses(work: SimpleNamespace) -> None:
    opening = _Opening(Measurer, str(work.pipeline), str(work.file), work.settings, "cpu")
    worker = worker_of(memory=0.7)
    opening.open(worker)
    assert cluster_module._refused is None
    assert worker.memory_manager.memory_pause_fraction is False
    assert worker.status == Status.running


@pytest.mark.skipif(sys.platform != "linux", reason="commands of a batch system are played by bash")
def test_jobs_of_a_batch_system(
    work: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {
        # A batch system keeps a copy: dask-jobqueue deletes the script as soon as it is submitted.
        "sbatch": 'cp "$1" "$0.job"\nnohup bash "$0.job" > /dev/null 2>&1 &\necho "Submitted batch job $!"',
        "scancel": "true",
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    description = tmp_path / "slurm.yaml"
    options = f"{{memory: 8GB, queue: gpu, interface: lo, local_directory: {tmp_path}}}"
    description.write_text(f"kind: slurm\nworkers: 1\noptions: {options}\n")
    jobs = [Job(index, np.full(len(work.bank.layers), index, np.int8), 0) for index in range(2)]
    expected = [labels for _, labels, _ in Measurer(work.pipe, work.bank, work.settings).run(jobs)]
    arguments = (Measurer, work.pipeline, work.file, work.settings)
    pool: ClusterPool[Job, Any] = ClusterPool(*arguments, cluster=description)
    with pool:
        found = {job.index: labels for job, labels, _ in pool.run(jobs)}
    assert found == dict(enumerate(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: cloud\nworkers: 1", r"c\.yaml: entry 'kind'"),
        ("kind: slurm\nworkers: 0", r"c\.yaml: entry 'workers'"),
        ("kind: slurm\nworkers: 1\nqueue: gpu", r"c\.yaml: entry 'queue'"),
        ("kind: slurm\nworkers: 1", r"c\.yaml: slurm: .*memory"),
        (
            "kind: slurm\nworkers: 1\noptions: {cores: 8}",
            r"c\.yaml: entry 'options': leave out cores: a worker",
        ),
        ("kind: local\nworkers: 1\noptions: {n_workers: 4}", r"'options': leave out n_workers"),
        ("kind: kubernetes\nworkers: 1", r"c\.yaml: kubernetes needs dask-kubernetes; run `pip install"),
    ],
)
def test_mistakes_in_the_file_are_named(
    work: SimpleNamespace, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(QsdError, match=message):
        ClusterPool(Measurer, work.pipeline, work.file, work.settings, cluster=path)


def test_engines_are_not_mixed(work: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (Measurer, str(work.pipeline), str(work.file), work.settings)
    with pytest.raises(QsdError, match="bring their own workers"):
        pool_of(*arguments, 2, "cpu", scheduler="tcp://h:1")
    with pytest.raises(QsdError, match="bring their own workers"):
        pool_of(*arguments, 1, "cpu", cluster="c.yaml", shard=Shard("a"))
    with pytest.raises(QsdError, match="give one of them"):
        pool_of(*arguments, 1, "cpu", scheduler="tcp://h:1", cluster="c.yaml")
    monkeypatch.setattr(cluster_module, "_PATIENCE", 0.3)
    with pytest.raises(QsdError, match=r"tcp://127\.0\.0\.1:9: no scheduler answers there"):
        pool_of(*arguments, 1, "cpu", scheduler="tcp://127.0.0.1:9")
    assert isinstance(work.bank, Bank)
