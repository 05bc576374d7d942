#!/bin/bash
# A model behind `vllm serve`, and a labelling that asks it from anywhere, several searches at once:
#
#     configs/clusters/vllm_server.sh --dataset claims.jsonl --output-name claims
#
# On one machine here; where server and command are on two, start each line on its own, and give BASE_URL.
set -euo pipefail

model=${MODEL:-meta-llama/Llama-3.1-8B}
port=${PORT:-8000}
url=${BASE_URL:-http://127.0.0.1:$port}
icm=${ICM:-.venv/bin/icm}

if [ -z "${BASE_URL:-}" ]; then
    ${SERVE:-.venv/bin/vllm serve} "$model" --host 127.0.0.1 --port "$port" --enable-prompt-tokens-details ${SERVE_OPTIONS:-} &
    server=$!
    trap 'kill "$server"; wait "$server" || true' EXIT
    until curl --silent --fail "$url/health" > /dev/null; do
        kill -0 "$server"  # ends this script if the server has ended
        sleep 2
    done
fi
"$icm" run --engine server --base-url "$url/v1" --model "$model" --workers "${WORKERS:-4}" "$@"
