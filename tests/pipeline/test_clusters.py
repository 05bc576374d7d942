"""What is run on clusters, as far as it goes without one: scripts, Ray's YAML, experiments over workers."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from icm.errors import ConfigError
from icm.pipeline.evaluation import eval_yaml
from icm.pipeline.experiment import read_experiment
from icm.pipeline.schedule import dependencies
from icm.pipeline.stages import make_stages
from icm.yaml_files import read_mapping

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "configs" / "clusters"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def fake(folder: Path, name: str, body: str) -> None:
    """A command of the cluster that is not here."""
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which SLURM's commands run everything on this machine, and write down what."""
    fake(tmp_path, "scontrol", "printf 'node1\\nnode2\\n'")
    fake(tmp_path, "sleep", "true")
    skip = 'while [ "${1#--}" != "$1" ]; do case $1 in --nodes|--ntasks|--nodelist|--exclude) shift;; esac; shift; done'
    fake(tmp_path, "srun", f'{skip}; if [ "$1" = hostname ]; then echo 10.1.1.1; else SLURM_NODEID=1 exec "$@"; fi')
    fake(tmp_path, "noted", f'echo "$(basename "$0") $*" >> {tmp_path}/log; env | grep ^RAY_ | sort >> {tmp_path}/env')
    for name in ("ray", "icm", "python"):
        (tmp_path / name).symlink_to(tmp_path / "noted")
    return {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "8",
        **{name: str(tmp_path / name.lower()) for name in ("RAY", "ICM", "PYTHON")},
    }


@pytest.mark.parametrize("script", sorted(CLUSTERS.glob("*.sh")), ids=lambda path: path.stem)
def test_scripts_are_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert os.access(script, os.X_OK)


def test_a_slurm_job_starts_ray_on_all_nodes_and_runs_the_experiment(slurm: dict[str, str], tmp_path: Path) -> None:
    experiment = "configs/experiments/amazon_reviews_30000.yaml"
    (tmp_path / experiment).parent.mkdir(parents=True)
    for path in (ROOT / "configs/experiments").glob("amazon_reviews*.yaml"):
        (tmp_path / "configs/experiments" / path.name).write_text(path.read_text())
    done = subprocess.run(["bash", CLUSTERS / "slurm.sh", experiment], env=slurm, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    head, other, run = sorted(
        (tmp_path / "log").read_text().splitlines(), key=lambda line: ("icm" in line, "--head" not in line)
    )
    assert head == "ray start --head --node-ip-address 10.1.1.1 --port 6379 --include-dashboard=false --block"
    assert other == "ray start --address 10.1.1.1:6379 --block"
    made = tmp_path / "outputs/amazon_reviews_30000.slurm.yaml"
    assert run == f"icm pipeline --config {made.relative_to(tmp_path)}"
    label = read_mapping(made)["label"]
    assert label["workers"] == "auto" and label["ray_address"] == "10.1.1.1:6379" and label["scheme"] == "kfold"
    tokens = {line for line in (tmp_path / "env").read_text().splitlines() if line.startswith("RAY_AUTH_TOKEN=")}
    (token,) = tokens  # of the job, the same on all nodes
    assert len(token.partition("=")[2]) == 64


@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_a_slurm_training_starts_a_launcher_a_node(launcher: str, slurm: dict[str, str], tmp_path: Path) -> None:
    words = ["--config", "configs/train/sft_lora.yaml", "--labels", "l.jsonl", "--output_dir", "out put"]
    done = subprocess.run(["bash", CLUSTERS / "slurm_training.sh", *words], env={**slurm, "LAUNCHER": launcher})
    assert done.returncode == 0
    said = (tmp_path / "log").read_text().strip()
    assert said.endswith(f"train/run.py {' '.join(words)}")
    if launcher == "torchrun":
        assert "--nnodes 2 --nproc-per-node 8" in said and "--rdzv-endpoint node1:29500 --rdzv-id 7" in said
        from torch.distributed.run import get_args_parser as parser
    else:
        assert "--num_machines 2 --num_processes 16 --machine_rank 1 --main_process_ip node1" in said
        from accelerate.commands.launch import launch_command_parser as parser
    options = shlex.split(said.partition("train/run.py")[0])[3:]
    assert parser().parse_args([*options, "train/run.py"])


def test_ray_accepts_its_cluster_file() -> None:
    pytest.importorskip("jsonschema")
    ray = pytest.importorskip("ray.autoscaler._private.util", reason="needs icm[ray]")
    content = yaml.safe_load((CLUSTERS / "ray_cluster.yaml").read_text())
    ray.validate_config(ray.prepare_config(content))
    started = content["head_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token" in started and "--include-dashboard=false" in started


def test_an_experiment_hands_its_workers_to_labelling_and_evaluation_and_to_no_setting(tmp_path: Path) -> None:
    config = read_experiment("configs/experiments/amazon_reviews_2560.yaml")
    labels = [stage for stage in make_stages(config) if stage.trace is not None]
    assert len(labels) == 4  # parts
    for stage in labels:
        assert stage.command[stage.command.index("--workers") + 1] == "auto" and "--ray-address" not in stage.command
        assert "workers" not in str(stage.settings)
    *others, evaluation = [stage for stage in make_stages(config) if stage.trace is None]
    assert all("--workers" not in stage.command for stage in others)
    assert evaluation.command[-2:] == ("--workers", "auto") and "workers" not in str(evaluation.settings)
    assert config.eval is not None
    own = replace(config, eval={**config.eval, "workers": 1, "ray_address": "10.1.1.1:6379"})
    other = make_stages(own)[-1]
    assert other.command[-2:] == ("--ray-address", "10.1.1.1:6379") and other.settings == evaluation.settings
    assert eval_yaml(own) == eval_yaml(config)


def test_what_is_trained_here_is_evaluated_here(tmp_path: Path) -> None:
    """A cluster that labels may not see the adapters; the launchers of other machines know the layout's port."""
    config = read_experiment("configs/experiments/amazon_reviews_2560.yaml")
    there = replace(config, label=replace(config.label, ray_address="10.1.1.1:6379", workers=2))
    *_, training, evaluation = make_stages(there)
    assert evaluation.command[-2:] == ("--workers", "2") and "--ray-address" in make_stages(there)[0].command
    untrained = replace(there, label=replace(there.label, rounds=1), train=None, eval={"conditions": []})
    assert "--ray-address" in make_stages(untrained)[-1].command
    assert training.beside_others.command[3:7] == ("--gpu_ids", "all", "--main_process_port", "0")
    own = {"layout": "configs/accelerate/multi_node.yaml"}
    far = replace(training, command=(*training.command[:4], own["layout"], *training.command[5:]))
    assert far.beside_others.command[3:6] == ("--gpu_ids", "all", "--config_file")


def test_a_stage_waits_for_the_model_that_another_will_make_and_an_evaluation_takes_the_labeler_s_cards(
    tmp_path: Path,
) -> None:
    path, made = tmp_path / "e.yaml", tmp_path / "out/adapters/icm_seed0_labels"
    train = {
        "recipe": "configs/train/sft_full.yaml",
        "accelerate": "configs/accelerate/single_gpu.yaml",
    }
    again = {"name": "again", "recipe": train["recipe"], "overrides": {"model_name_or_path": str(made)}}
    experiment = {
        "output_dir": str(tmp_path / "out"),
        "data": {"dataset": "reviews"},
        "engine": {"model": "m", "tensor_parallel_size": 4},
        "label": {"algorithms": ["icm"], "seeds": [0]},
        "train": {**train, "label_sources": ["labels"], "variants": [again]},
        "eval": {"engine": {"max_model_len": 128}, "conditions": [{"name": "Base", "kind": "zero-shot"}]},
    }
    path.write_text(yaml.safe_dump(experiment))
    stages = make_stages(read_experiment(path))
    names = [stage.name for stage in stages]
    first, second = names.index("train icm_seed0_labels"), names.index("train icm_seed0_labels_again")
    assert first in dependencies(stages)[second]
    assert stages[-1].name == "eval" and stages[-1].processes.cards == 4


@pytest.mark.parametrize("value", ["0", "some"])
@pytest.mark.parametrize("stage", ["label", "eval"])
def test_wrong_workers_of_an_experiment_are_named(stage: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    own = {"eval": {"conditions": [{"name": "Base", "kind": "zero-shot"}]}, "label": {}, "data": {"dataset": "reviews"}}
    path.write_text(yaml.safe_dump({**own, stage: {**own[stage], "workers": yaml.safe_load(value)}}))
    with pytest.raises(ConfigError, match=rf"e\.yaml: {stage}\.workers: found "):
        make_stages(read_experiment(path))


def test_a_served_model_is_asked_by_several_workers(slurm: dict[str, str], tmp_path: Path) -> None:
    server = f'exec {sys.executable} -m http.server "$5" --bind "$3" --directory {tmp_path}'
    fake(tmp_path, "serve", f'echo "serve $*" >> {tmp_path}/log; {server}')
    (tmp_path / "health").touch()
    own = {**slurm, "SERVE": str(tmp_path / "serve"), "PORT": "18437"}
    done = subprocess.run(["bash", CLUSTERS / "vllm_server.sh", "--dataset", "c.jsonl"], env=own, timeout=60)
    assert done.returncode == 0
    serve, run = (tmp_path / "log").read_text().splitlines()
    assert serve.startswith("serve meta-llama/Llama-3.1-8B --host 127.0.0.1 --port 18437 ")
    asked = "--engine server --base-url http://127.0.0.1:18437/v1 --model meta-llama/Llama-3.1-8B --workers 4"
    assert run == f"icm run {asked} --dataset c.jsonl"
