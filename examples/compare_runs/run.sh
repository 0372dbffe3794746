#!/usr/bin/env bash
# Three short runs on a CPU, their scores over training, and a comparison. Finished stages are skipped when run again.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/compare_runs
work=runs/compare_runs
tokenizer=.cache/quickstart/tokenizer

python examples/quickstart_cpu/prepare_inputs.py --output .cache/quickstart
python $here/prepare_data.py
for corpus in passages questions; do
  python tools/preprocess_data.py --input $work/$corpus.jsonl --output-prefix $work/data/$corpus \
    --tokenizer-type HuggingFaceTokenizer --tokenizer-model $tokenizer --prepend-bod --append-eod
done

train_and_score() { # NAME BLEND
  torchrun --nproc-per-node 1 tools/pretrain_gpt.py --config $here/pretrain.yaml run=$work/"$1"/run data.blend="$2"
  megatron-ipt trend --config $here/trend.yaml run=$work/"$1"/run output=$work/"$1"/trend
}
passages="{prefix: $work/data/passages_text_document}"
questions="{prefix: $work/data/questions_text_document}"
train_and_score vanilla "[$passages]"
train_and_score half "[$passages, $questions]"
train_and_score instruct "[$questions]"

megatron-ipt compare Vanilla=$work/vanilla/trend Half=$work/half/trend Instruct=$work/instruct/trend \
  --output $work/comparison
