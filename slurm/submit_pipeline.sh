#!/usr/bin/env bash
# The path of the data as Slurm jobs, each of which waits until those before it have ended well.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: slurm/submit_pipeline.sh [--dry-run] [--site FILE] [--blend FILE] CONFIG_FOLDER [STAGE...]

Submits a job for each stage that CONFIG_FOLDER has a YAML for, and prints the jobs and where they write:
convert_base, synthesize, preprocess (an array where there are several), mix, pretrain, convert, evaluate.
With CONTAINER_IMAGE in the site's settings a first job, check, reads all configurations.

  STAGE          only these stages
  --dry-run      print the commands, submit nothing
  --site FILE    settings of the cluster (slurm/site.env)
  --blend FILE   a blend that mix writes, for pretrain to take after its own YAML

Submitted again, stages that are finished are skipped, and no stage runs twice at the same time.
TEXT
}

refuse() { # REASON REMEDY
  printf 'error\n  %s\n  remedy: %s\n' "$1" "$2" >&2
  exit 2
}

dry_run=false site=slurm/site.env blend='' folder='' stages=()
mapfile -t known < <(python3 "$(dirname "${BASH_SOURCE[0]}")/../megatron_ipt/stages.py")
known=(convert_base "${known[@]}")
while (($#)); do
  case $1 in
    -h | --help) usage; exit ;;
    --dry-run) dry_run=true ;;
    --site | --blend)
      [ $# -gt 1 ] || refuse "$1 names no file" "give one, or see --help"
      if [ "$1" = --site ]; then site=$(realpath -m "$2"); else blend=$2; fi
      shift ;;
    -*) refuse "$1 is no option" "see --help" ;;
    *) if [ -z "$folder" ]; then folder=$1; else stages+=("$1"); fi ;;
  esac
  shift
done
[ -n "$folder" ] || { usage >&2; exit 2; }
folder=$(realpath -m "$folder")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -d "$folder" ] || refuse "$folder: no such folder" "name one with a YAML for each stage, such as examples/general_500m"
[ -f "$site" ] || refuse "$site: no such file" "name a copy of slurm/site.env"
for stage in "${stages[@]}"; do
  [[ " ${known[*]} " == *" $stage "* ]] || refuse "$stage is no stage" "one of ${known[*]}"
done
# shellcheck source=slurm/site.env disable=SC1091
source "$site"
export MEGATRON_IPT_SITE=$site
$dry_run || command -v sbatch >/dev/null || refuse "sbatch is not on this machine" "run it where jobs are submitted"

configs() { # STAGE: its configurations, if it is wanted
  if ((${#stages[@]} == 0)) || [[ " ${stages[*]} " == *" $1 "* ]]; then
    case $1 in
      preprocess) find "$folder" -maxdepth 1 -name 'preprocess*.yaml' | sort ;;
      *) find "$folder" -maxdepth 1 -name "$1.yaml" ;;
    esac
  fi
}

mapfile -t all < <(for stage in "${known[@]}"; do configs "$stage"; done)
((${#all[@]})) || refuse "$folder holds no configuration of a stage" "it needs a YAML such as pretrain.yaml"
if [ -z "$CONTAINER_IMAGE" ]; then
  "$PYTHON" slurm/check_configs.py "${all[@]}"
elif ((${#SYNTHESIZE_EXECUTOR[@]})) && [ -n "$(configs synthesize)" ]; then
  refuse "SYNTHESIZE_EXECUTOR submits its job arrays from this host, and the package is in CONTAINER_IMAGE" \
    "leave SYNTHESIZE_EXECUTOR=() in $site: one job synthesizes"
fi
$dry_run || mkdir -p "$LOGS"

after=() job=''
report() { printf '%-13s %-9s %s\n' "$1" "$2" "$3"; }

submit() { # STAGE OPTIONS SCRIPT ARGUMENT...: sets job; it waits for the jobs in `after`
  local stage=$1 dependency=singleton log="$LOGS/%x-%j.out"
  local -n options=$2
  local script=$3
  shift 3
  ((${#after[@]} == 0)) || dependency+=",afterok:$(IFS=: && echo "${after[*]}")"
  local command=(sbatch --parsable --chdir="$PWD" --job-name="$(basename "$folder")-$stage" --dependency="$dependency")
  command+=(--kill-on-invalid-dep=yes)
  if [ "$stage" = preprocess ] && (($# > 1)); then
    command+=(--array="0-$(($# - 1))")
    log="$LOGS/%x-%A_%a.out"
  fi
  command+=(--output="$log" "${options[@]}" "slurm/$script.sbatch" "$@")
  if $dry_run; then
    echo "${command[*]@Q}"
    job="JOB_OF_${stage^^}"
  else
    job=$("${command[@]}")
    job=${job%%;*}
    log=${log//%x/$(basename "$folder")-$stage}
    log=${log//%j/$job}
    report "$stage" "$job" "${log//%A/$job}"
  fi
}

field() { # NAME: that field of the JSON object on standard input, or nothing
  python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1], ""))' "$1"
}

submit_synthesis_arrays() { # CONFIG: its executor submits them, from here; sets job to the last, or to nothing
  local command=("$PYTHON" tools/synthesize_instructions.py --config "$1" --json "${SYNTHESIZE_EXECUTOR[@]}") outcome
  if $dry_run; then
    echo "${command[*]@Q}"
    job=JOB_OF_SYNTHESIZE
    return
  fi
  outcome=$("${command[@]}")
  job=$(field job <<<"$outcome")
  report synthesize "${job:-finished}" "$(field output <<<"$outcome")/logs"
}

base=()
if [ -n "$CONTAINER_IMAGE" ]; then # the package is in the image: a job has to read the configurations
  submit check MIX check "${all[@]}"
  after=("$job")
fi
for stage in "${known[@]}"; do
  mapfile -t files < <(configs "$stage")
  ((${#files[@]})) || continue
  case $stage in
    convert_base) submit "$stage" CONVERT convert "${files[@]}"; base=("$job"); continue ;;
    synthesize)
      if ((${#SYNTHESIZE_EXECUTOR[@]})); then submit_synthesis_arrays "${files[@]}"; else
        submit "$stage" SYNTHESIZE synthesize "${files[@]}"
      fi ;;
    pretrain)
      after+=("${base[@]}")
      submit "$stage" PRETRAIN pretrain "${files[@]}" ${blend:+"$blend"} ;;
    *) submit "$stage" "${stage^^}" "$stage" "${files[@]}" ;;
  esac
  after=(${job:+"$job"})
done
