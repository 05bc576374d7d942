#!/bin/bash
# Starts Ray on all nodes of a SLURM job, and runs an experiment whose labelling is spread over them:
#
#     sbatch --nodes 4 --gpus-per-node 8 configs/clusters/slurm.sh configs/experiments/amazon_reviews_30000.yaml
#
# The repository with its .venv (`pip install icm[ray,vllm]`), the model and the output folder are on storage that all
# nodes see. Only who knows the token, which is made anew for each job, gets into its Ray.
#SBATCH --job-name icm
#SBATCH --ntasks-per-node 1
#SBATCH --exclusive
set -euo pipefail

experiment=${1:?give an experiment, as configs/experiments/amazon_reviews_30000.yaml}
ray=${RAY:-.venv/bin/ray}
icm=${ICM:-.venv/bin/icm}
port=${RAY_PORT:-6379}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(srun --nodes 1 --ntasks 1 --nodelist "$head" hostname --ip-address | awk 'NR == 1 {print $1}')

echo "Ray's head on $head ($address:$port)"
srun --nodes 1 --ntasks 1 --nodelist "$head" --overlap \
    "$ray" start --head --node-ip-address "$address" --port "$port" --include-dashboard=false --block &
sleep 20
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    srun --nodes "$others" --ntasks "$others" --exclude "$head" --overlap \
        "$ray" start --address "$address:$port" --block &
    sleep 20
fi

# The same job again goes on from where this one ends.
mkdir -p outputs
here=outputs/$(basename "$experiment" .yaml).slurm.yaml
printf 'extends: %s\nlabel: {workers: auto, ray_address: "%s:%s"}\n' "$PWD/$experiment" "$address" "$port" > "$here"
srun --nodes 1 --ntasks 1 --nodelist "$head" --overlap "$icm" pipeline --config "$here"
