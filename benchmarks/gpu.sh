#!/bin/sh
# Proves the GPU engine on a machine that has one, without network:  benchmarks/gpu.sh OUT
#
# Builds the package and installs it into build/gpu, runs the tests that need a GPU, and compute-sanitizer over a small
# case where it is on the path. Everything it finds is written below OUT; a summary comes last.
# PYTHON names the interpreter (python3), whose packages are used.
set -u

if [ $# -ne 1 ]; then
    echo "usage: $0 OUT" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/build/gpu${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONSAFEPATH=1  # the package that was installed, not the folder of its sources
failed=0

# report NAME COMMAND...: the command's output goes to OUT/NAME.txt, one line to the screen.
report() {
    name=$1
    shift
    begin=$(date +%s)
    if "$@" >"$out/$name.txt" 2>&1; then verdict=passed; else verdict=FAILED failed=1; fi
    echo "$name: $verdict in $(($(date +%s) - begin)) s"
}

rm -rf build/gpu
report build "$python" -m pip install -q --target build/gpu --no-index --no-deps \
    --no-build-isolation .

report info "$python" -m memx_fast.info
report tests timeout 400 "$python" -m pytest -m gpu -rs -p no:cacheprovider \
    --junitxml="$out/tests.xml" tests/test_triton_gpu.py
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        report "$tool" timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" -m pytest -q -p no:cacheprovider tests/test_triton_gpu.py -k test_autocast
    done
fi
tail -n 3 "$out/tests.txt"
exit $failed
