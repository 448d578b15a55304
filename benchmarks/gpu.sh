#!/bin/sh
# Proves and measures the GPU engine on a machine that has one, without network, in nine minutes:
# benchmarks/gpu.sh OUT
#
# Installs the package into build/gpu, without the kernels for the CPU, runs the tests that need a
# GPU, those of the CUDA kernels (which nothing calls yet) where nvcc is on the path,
# compute-sanitizer over a small case where it is, and then as much of the benchmark suite as time
# allows.
# Everything it finds is written below OUT, the tables and a CSV to commit below OUT/results; a
# summary comes last. PYTHON names the interpreter (python3), whose packages are used.
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
deadline=$(($(date +%s) + 530))

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
report build env MEMX_FAST_NO_EXTENSION=1 "$python" -m pip install -q --target build/gpu --no-index --no-deps \
    --no-build-isolation .

report info "$python" -m memx_fast.info
report tests timeout -k 15 -s INT 240 "$python" -m pytest -m gpu -rs -p no:cacheprovider \
    --junitxml="$out/tests.xml" tests/test_triton_gpu.py
if command -v nvcc >/dev/null; then
    report cuda-kernels timeout -k 15 -s INT 120 env MEMX_FAST_CUDA_ON_GPU=1 \
        "$python" -m pytest -q -p no:cacheprovider tests/test_cuda_on_host.py
fi
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        report "$tool" timeout -k 15 60 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" -m pytest -q -p no:cacheprovider tests/test_triton_gpu.py -k test_autocast
    done
fi
for type in bfloat16 float32; do
    for workload in samm streaming radar samm1 openstl pointwise moving-mnist satellite; do
        measure "$workload" "$type"
    done
done
tail -n 3 "$out/tests.txt"
cat "$out"/results/*.md 2>/dev/null
exit $failed
