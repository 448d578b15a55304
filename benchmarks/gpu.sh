#!/bin/sh
# Proves and measures both GPU engines on a machine that has one, without network, in nine minutes or
# in as many seconds as are given: benchmarks/gpu.sh OUT [SECONDS]
#
# Installs the package into build/gpu, compiled for this GPU alone; where that fails, without its
# extension, so that Triton can be measured all the same. Then come, at once, what takes long and
# needs no clock: the tests that need a GPU, compute-sanitizer over a small case where it is there,
# and the compilation of what is going to be measured, Triton's and the rivals'. After that, one by
# one: both engines side by side on every workload with what each optimisation is worth, the main
# workload against all rivals, then other workloads against those that need no compilation, as far as
# time allows. Everything it finds is written below OUT, the tables and a CSV to commit below
# OUT/results; and, in OUT/gpu_engines.csv, which engine was faster: committed as
# memx_fast/gpu_engines.csv, it is what "auto" goes by, here already. A summary comes last. PYTHON names
# the interpreter (python3), whose packages are used. INSTALLED=1 takes what is in build/gpu already.
set -u

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 OUT [SECONDS]" >&2
    exit 2
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then
    echo "$0: the PyTorch of $python sees no GPU" >&2
    exit 1
fi
deadline=$(($(date +%s) + ${2:-500}))
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2
installed=$PWD/build/gpu${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH="$installed:$PWD"
export PYTHONSAFEPATH=1  # the package that was installed comes before the folder of its sources
workloads="samm streaming radar openstl pointwise samm1 moving-mnist satellite"
: >"$out/verdicts.txt"

# report NAME COMMAND...: the command's output goes to OUT/NAME.txt, one line to the screen.
report() {
    name=$1
    shift
    begin=$(date +%s)
    "$@" >"$out/$name.txt" 2>&1
    case $? in
        0) verdict=passed ;;
        124 | 137) verdict="out of time" ;;
        *) verdict=FAILED ;;
    esac
    echo "$name: $verdict in $(($(date +%s) - begin)) s" | tee -a "$out/verdicts.txt"
}

# report_within SECONDS NAME COMMAND...: the same, interrupted after that time.
report_within() {
    limit=$1
    name=$2
    shift 2
    report "$name" timeout -k 15 -s INT "$limit" "$@"
}

# before_deadline NAME COMMAND...: the same, interrupted at the deadline.
before_deadline() {
    left=$((deadline - $(date +%s)))
    if [ "$left" -lt 20 ]; then
        echo "$1: left out, no time" | tee -a "$out/verdicts.txt"
        return
    fi
    report_within "$left" "$@"
}

install() {
    timeout -k 15 240 "$python" -m pip install -q --target build/gpu --no-index --no-deps \
        --no-build-isolation .
}

# prove NAME CHOICE: the tests of one engine, in several processes where pytest-xdist is there.
prove() {
    report_within 150 "tests-$1" "$python" -m pytest -m gpu -k "$2" -rs -p no:cacheprovider \
        $processes --junitxml="$out/tests-$1.xml" tests/test_gpu.py
}

# Without its cache PyTorch asks for every tensor by itself, of which memcheck then sees the ends.
sanitize() {
    report_within 150 "$1" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
        compute-sanitizer --tool "$1" --error-exitcode 1 \
        "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py -k test_autocast
}

# measure WORKLOAD TYPE OPTION...: its lines are added to the tables.
measure() {
    case=$1-$2
    chosen="[$1- and $2"
    shift 2
    rm -f "$out/$case.json"
    before_deadline "benchmark-$case" "$python" -m pytest -q -p no:cacheprovider benchmarks \
        --device cuda --preparation 40 -k "$chosen" --benchmark-json "$out/$case.json" "$@"
    if [ -s "$out/$case.json" ]; then
        report "results-$case" "$python" -m benchmarks.report "$out/$case.json" \
            --into "$out/results"
    fi
}

if [ -z "${INSTALLED:-}" ]; then
    rm -rf build/gpu
    TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch
print("{}.{}".format(*torch.cuda.get_device_capability()))')
    export TORCH_CUDA_ARCH_LIST
    report build install
    if [ ! -d build/gpu/memx_fast ]; then
        export MEMX_FAST_NO_EXTENSION=1
        report build-without-extension install
    fi
fi
report info "$python" -m memx_fast.info

processes=$("$python" -c 'import xdist; print("-n 6")' 2>/dev/null)
prove cuda cuda &
prove triton "not cuda" &
if command -v compute-sanitizer >/dev/null; then
    sanitize memcheck &
    sanitize racecheck &
fi
if [ -z "${MEMX_FAST_NO_EXTENSION:-}" ]; then
    for workload in $workloads; do
        report_within 150 "compilation-$workload" "$python" -m benchmarks.ablation "$workload" \
            --device cuda --rounds 1 --into "$out/compilation-$workload" &
    done
fi
report_within 90 compilation-rivals "$python" -m pytest -q -p no:cacheprovider benchmarks \
    --device cuda --preparation 100 --seconds 0 -k "[samm- and bfloat16" &
wait

if [ -z "${MEMX_FAST_NO_EXTENSION:-}" ]; then
    before_deadline ablation "$python" -m benchmarks.ablation $workloads \
        --device cuda --rounds 5 --into "$out/results"
    report gpu-engines "$python" -m benchmarks.gpu_engines "$out"/results/*-ablation.csv \
        --into "$out/gpu_engines.csv"
    cp "$out/gpu_engines.csv" build/gpu/memx_fast/  # the rivals meet the faster engine
fi
measure samm bfloat16 --seconds 6
for case in "radar bfloat16" "streaming bfloat16" "samm float32" "openstl bfloat16" \
    "satellite bfloat16" "pointwise bfloat16" "openstl float32" "moving-mnist bfloat16"; do
    measure $case --uncompiled --seconds 2
done

tail -qn 3 "$out"/tests-*.txt
cat "$out"/results/*.md "$out"/ablation.txt 2>/dev/null
! grep FAILED "$out/verdicts.txt"
