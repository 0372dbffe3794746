#!/usr/bin/env bash
# Submit the pipeline as Slurm jobs, each of which waits for the jobs before it to succeed.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: slurm/submit_pipeline.sh [--dry-run] [--site FILE] [--blend FILE] CONFIG_FOLDER [STAGE...]

Submits a job for each stage that has a YAML file in CONFIG_FOLDER, and prints the jobs and their logs:
convert_base, synthesize, preprocess (an array if there are several files), mix, pretrain, convert, evaluate.
With CONTAINER_IMAGE in the site settings, a first job, check, loads all configurations.

  STAGE          submit only these stages
  --dry-run      print the commands without submitting anything
  --site FILE    settings of the cluster (default: slurm/site.env)
  --blend FILE   a blend that mix writes; pretrain reads it after its own YAML file

Can be run again: finished stages are skipped, and no stage runs twice at the same time.
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
      [ $# -gt 1 ] || refuse "$1 needs a file" "give one, or see --help"
      if [ "$1" = --site ]; then site=$(realpath -m "$2"); else blend=$2; fi
      shift ;;
    -*) refuse "$1: no such option" "see --help" ;;
    *) if [ -z "$folder" ]; then folder=$1; else stages+=("$1"); fi ;;
  esac
  shift
done
[ -n "$folder" ] || { usage >&2; exit 2; }
folder=$(realpath -m "$folder")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -d "$folder" ] || refuse "$folder: no such folder" "give one with a YAML for each stage, such as examples/general_500m"
[ -f "$site" ] || refuse "$site: no such file" "give a copy of slurm/site.env"
for stage in "${stages[@]}"; do
  [[ " ${known[*]} " == *" $stage "* ]] || refuse "$stage: no such stage" "use one of ${known[*]}"
done
# shellcheck source=slurm/site.env disable=SC1091
source "$site"
export MEGATRON_IPT_SITE=$site
$dry_run || command -v sbatch >/dev/null || refuse "sbatch was not found" "run this on a login node of the cluster"

configs() { # STAGE: prints its configuration files, if it is to be submitted
  if ((${#stages[@]} == 0)) || [[ " ${stages[*]} " == *" $1 "* ]]; then
    case $1 in
      preprocess) find "$folder" -maxdepth 1 -name 'preprocess*.yaml' | sort ;;
      *) find "$folder" -maxdepth 1 -name "$1.yaml" ;;
    esac
  fi
}

mapfile -t all < <(for stage in "${known[@]}"; do configs "$stage"; done)
((${#all[@]})) || refuse "$folder holds no configuration of a stage" "add a YAML file such as pretrain.yaml"
if [ -z "$CONTAINER_IMAGE" ]; then
  "$PYTHON" slurm/check_configs.py "${all[@]}"
elif ((${#SYNTHESIZE_EXECUTOR[@]})) && [ -n "$(configs synthesize)" ]; then
  refuse "SYNTHESIZE_EXECUTOR submits job arrays from this host, but the package is only in CONTAINER_IMAGE" \
    "set SYNTHESIZE_EXECUTOR=() in $site, to run the synthesis as one job"
fi
$dry_run || mkdir -p "$LOGS"

after=() job=''
report() { printf '%-13s %-9s %s\n' "$1" "$2" "$3"; }

submit() { # STAGE OPTIONS SCRIPT ARGUMENT...: submits a job that waits for those in `after`, and sets `job` to its id
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

field() { # NAME: prints that field of the JSON object on standard input; nothing if it has none
  python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1], ""))' "$1"
}

submit_synthesis_arrays() { # CONFIG: runs its executor, which submits them; sets `job` to the last, empty if finished
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
