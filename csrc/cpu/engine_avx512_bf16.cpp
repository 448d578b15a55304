// The kernels for processors that multiply pairs of bfloat16 numbers (AVX512_BF16) beside AVX-512.
// Only those of bfloat16 tensors differ from the AVX-512 ones.
//
// Everything that may define a shared inline function is included before the target region, so that
// no other object file can end up calling a copy made for this instruction set.
//
// Not for clang, which compiles target regions for the baseline: there the intrinsics do not exist.
#if defined(__x86_64__) && !defined(__clang__)

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "step.h"

#pragma GCC target("arch=x86-64-v4,avx512bf16")
#define MEMX_ISA avx512_bf16
#define MEMX_AVX512
#define MEMX_BFLOAT16_PAIRS
#include "engine_table.h"

namespace memx {

const Engine& avx512_bf16_engine() {
  static const Engine engine = [] {
    Engine changed = avx512_engine();
    changed.name = "avx512_bf16";
    changed.bfloat16_pairs = avx512_bf16::tile_kernels<Bfloat16, Bfloat16Pair, 64>();
    return changed;
  }();
  return engine;
}

}  // namespace memx

#endif
