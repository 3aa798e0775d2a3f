#!/usr/bin/env bash
# One launcher for every job: chooses the configuration, ships the package, submits. No logic.
#   ./spark-submit.sh [--env local|yarn] [--dry-run] jobs/X.py [-- job options]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
usage="usage: ./spark-submit.sh [--env local|yarn] [--dry-run] jobs/X.py [-- job options]   (-- --help lists a job's own)"
env=local; dry_run=no; job=
fail() { echo "error: $1" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case "$1" in
    --env) [ $# -ge 2 ] || fail "--env needs a value: local or yarn"; env="$2"; shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    -h|--help) echo "$usage"; echo "jobs: $(cd "$root" && grep -l run_job jobs/*.py | grep -v runner | tr '\n' ' ')"; exit 0 ;;
    --) shift; break ;;
    -*) fail "unknown option '$1'. $usage" ;;
    *) [ -z "$job" ] || fail "two jobs named, '$job' and '$1'. Job options come after --. $usage"; job="$1"; shift ;;
  esac
done

[ -n "$job" ] || fail "no job named. $usage"
[ "$env" = local ] || [ "$env" = yarn ] || fail "--env '$env' is not known: local or yarn"
case "$job" in /*) ;; *) [ -f "$job" ] || job="$root/$job" ;; esac
[ -f "$job" ] || fail "job '$job' does not exist. There are: $(cd "$root" && echo jobs/*.py)"
python="${RECSYS_PYTHON:-$root/.venv/bin/python}"
[ -x "$python" ] || fail "no environment at '$python'. Run 'make setup' once, or set RECSYS_PYTHON."
jars="$(echo "$root"/.jars/delta-*.jar | tr ' ' ',')"
case "$jars" in *'*'*) fail "no Delta jars in .jars/. Run 'make setup' once." ;; esac

export PYSPARK_PYTHON="${PYSPARK_PYTHON:-$python}" PYSPARK_DRIVER_PYTHON="$python"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" SPARK_LOCAL_IP="${SPARK_LOCAL_IP:-127.0.0.1}"
[ ! -x "$root/.jars/java/bin/java" ] || export JAVA_HOME="$root/.jars/java"
export SPARK_SUBMIT_OPTS="${SPARK_SUBMIT_OPTS:-} -Dlog4j2.configurationFile=file:$root/conf/log4j2.properties"
for name in OMP OPENBLAS MKL NUMBA; do export "${name}_NUM_THREADS=1"; done
SPARK_HOME="${SPARK_HOME:-$("$python" -c 'import importlib.util, os; print(os.path.dirname(importlib.util.find_spec("pyspark").origin))')}"
export SPARK_HOME

command=("$SPARK_HOME/bin/spark-submit" --properties-file "$root/conf/spark-$env.conf" --jars "$jars")
if [ "$env" = yarn ]; then
  [ -n "${HADOOP_CONF_DIR:-}" ] || fail "HADOOP_CONF_DIR is not set: it names the folder of core-site.xml and yarn-site.xml."
  # Unpacked on the executors, because numba caches beside real files only.
  package="$root/build/recsys-package.zip"
  command+=(--archives "$package#recsys-package" --conf spark.executorEnv.PYTHONPATH=./recsys-package)
fi
command+=("$job" --env "$env" "$@")

if [ "$dry_run" = yes ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
if [ "$env" = yarn ]; then
  mkdir -p "$root/build" && rm -f "$package"
  (cd "$root" && "$python" -m zipfile -c "$package" recsys jobs)
fi
exec "${command[@]}"
