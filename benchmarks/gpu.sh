#!/bin/sh
# Proves and measures both GPU engines on a machine that has one, without network, in nine minutes:
# benchmarks/gpu.sh OUT
#
# Installs the package into build/gpu, compiled for this GPU alone; where that fails, without its
# extension, so that Triton can be measured all the same. Then runs the tests that need a GPU,
# compute-sanitizer over a small case where it is there, as much of the benchmark suite as time
# allows, and what each optimisation is worth on one workload.
# Everything it finds is written below OUT, the tables and a CSV to commit below OUT/results; and,
# in OUT/gpu_engines.csv, which engine was faster: committed as memx_fast/gpu_engines.csv, it is what
# "auto" goes by. A summary comes last. PYTHON names the interpreter (python3), whose packages are
# used.
set -u

if [ $# -ne 1 ]; then
    echo "usage: $0 OUT" >&2
    exit 2
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then
    echo "$0: the PyTorch of $python sees no GPU" >&2
    exit 1
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH="$PWD/build/gpu${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1  # the package that was installed, not the folder of its sources
failed=0
deadline=$(($(date +%s) + 470))

# report NAME COMMAND...: the command's output goes to OUT/NAME.txt, one line to the screen.
report() {
    name=$1
    shift
    begin=$(date +%s)
    "$@" >"$out/$name.txt" 2>&1
    case $? in
        0) verdict=passed ;;
        124 | 137) verdict="out of time" ;;
        *) verdict=FAILED failed=1 ;;
    esac
    echo "$name: $verdict in $(($(date +%s) - begin)) s"
}

# measure WORKLOAD TYPE: interrupted at the deadline; its lines are added to the tables.
measure() {
    left=$((deadline - $(date +%s)))
    if [ "$left" -lt 30 ]; then
        echo "benchmark $1 $2: left out, no time"
        return
    fi
    report "benchmark-$1-$2" env PYTHONPATH="$PYTHONPATH:$PWD" timeout -k 15 -s INT "$left" \
        "$python" -m pytest -q -p no:cacheprovider benchmarks --device cuda --preparation 40 \
        -k "[$1- and $2" --benchmark-json "$out/$1-$2.json"
    report "results-$1-$2" env PYTHONPATH="$PYTHONPATH:$PWD" \
        "$python" -m benchmarks.report "$out/$1-$2.json" --into "$out/results"
}

rm -rf build/gpu
install() {
    "$python" -m pip install -q --target build/gpu --no-index --no-deps --no-build-isolation .
}
TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch
print("{}.{}".format(*torch.cuda.get_device_capability()))')
export TORCH_CUDA_ARCH_LIST
report build install
if [ ! -d build/gpu/memx_fast ]; then
    export MEMX_FAST_NO_EXTENSION=1
    report build-without-extension install
fi

report info "$python" -m memx_fast.info
report tests timeout -k 15 -s INT 240 "$python" -m pytest -m gpu -rs -p no:cacheprovider \
    --junitxml="$out/tests.xml" tests/test_gpu.py
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        report "$tool" timeout -k 15 60 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py -k test_autocast
    done
fi
for type in bfloat16 float32; do
    for workload in samm streaming radar samm1 openstl pointwise moving-mnist satellite; do
        measure "$workload" "$type"
    done
done
report gpu-engines env PYTHONPATH="$PYTHONPATH:$PWD" \
    "$python" -m benchmarks.gpu_engines "$out"/results/*.csv --into "$out/gpu_engines.csv"
if [ -z "${MEMX_FAST_NO_EXTENSION:-}" ]; then
    report ablation env PYTHONPATH="$PYTHONPATH:$PWD" timeout -k 15 60 \
        "$python" -m benchmarks.ablation samm --device cuda --into "$out/ablation"
fi
tail -n 3 "$out/tests.txt"
cat "$out"/results/*.md "$out/ablation.txt" 2>/dev/null
exit $failed
