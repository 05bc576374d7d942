#!/usr/bin/env bash
# Label, train and evaluate offline on a small embedded model and data set: about seven minutes on two CPU
# cores after the set-up. Run it again to continue after an interruption; finished stages are not repeated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh

cat <<'TEXT'

Internal Coherence Maximization in one sitting: a 135M model judges claims such as
    Review: Wonderful monitor, sharp and easy on the eyes.
    Claim: The reviewer is satisfied
    I think this Claim is [True | False]
  label   nobody labelled 32 reviews for it: it looks for the labels that predict each other best. Three searches, each
          on its own 32 reviews, and a simpler labeler (bootstrap) beside them.
  train   a LoRA adapter is fine-tuned on the labels it is surest of, and a twin on true ones.
  eval    asked plainly, shown random, bootstrap, found or true labels, fine-tuned: on 100 held-out reviews.
The experiment is configs/experiments/demo.yaml; everything is written to demo_output/.

TEXT

# Nothing is fetched, and what libraries say about themselves does not bury the results.
export ICM_LOG_LEVEL=WARNING HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false
# Without a GPU two stages run at once: a third of most stages is the start of Python, on one core.
nvidia-smi -L >/dev/null 2>&1 || { export DS_ACCELERATOR=cpu; set -- --jobs 2 "$@"; }
started=$SECONDS
.venv/bin/icm pipeline --config configs/experiments/demo.yaml "$@"
printf '\nfinished in %d min %02d s. Open demo_output/report.html, or look at demo_output/figure_1.png.\n' \
    $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
