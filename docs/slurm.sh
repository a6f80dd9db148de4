#!/usr/bin/env bash
# Two machines of eight GPUs:  sbatch docs/slurm.sh
# One task a GPU and no launcher between, so that SLURM's signals reach the processes that train. They finish the
# step, save and exit with 138 (128 + SIGUSR1) two minutes before the time is up; the job is then queued again, and
# resumes from the checkpoint.
#SBATCH --job-name=strait
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=29500 OMP_NUM_THREADS=1

# DATA and MODEL lie where every machine sees them.
srun --kill-on-bad-exit=0 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec strait train --config imagenet256 --data "$DATA" --model "$MODEL"
'
status=$?
[ "$status" -eq 138 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$status"
