#!/bin/bash
# One training over all nodes of a SLURM job, a launcher a node (DeepSpeed ZeRO-3, see zero3_multi_node.yaml):
#
#     sbatch --nodes 2 --gpus-per-node 8 configs/clusters/slurm_training.sh \
#         --config configs/train/sft_lora.yaml --labels icm_results/reviews.jsonl --output_dir outputs/icm
#
# torchrun does the same for layouts without DeepSpeed: LAUNCHER=torchrun.
#SBATCH --job-name icm-train
#SBATCH --ntasks-per-node 1
#SBATCH --exclusive
set -euo pipefail

python=${PYTHON:-.venv/bin/python}
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
gpus=${SLURM_GPUS_ON_NODE:-8}
export MASTER_PORT=${MASTER_PORT:-29500}

if [ "${LAUNCHER:-accelerate}" = torchrun ]; then
    srun --kill-on-bad-exit "$python" -m torch.distributed.run --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$gpus" \
        --rdzv-backend c10d --rdzv-endpoint "$address:$MASTER_PORT" --rdzv-id "$SLURM_JOB_ID" train/run.py "$@"
else
    # The rank of a node is known on the node alone.
    export PYTHON_OF_NODES=$python MAIN_ADDRESS=$address PROCESSES=$((SLURM_JOB_NUM_NODES * gpus))
    srun --kill-on-bad-exit bash -c '"$PYTHON_OF_NODES" -m accelerate.commands.launch \
        --config_file configs/accelerate/zero3_multi_node.yaml --num_machines "$SLURM_JOB_NUM_NODES" \
        --num_processes "$PROCESSES" --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_ADDRESS" \
        --main_process_port "$MASTER_PORT" train/run.py "$@"' launch "$@"
fi
