// The kernels for processors with AVX-512 (F, BW, CD, DQ, VL): 512-bit vectors.
//
// Everything that may define a shared inline function is included before the target region, so that
// no other object file can end up calling a copy made for this instruction set.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "step.h"

#pragma GCC target("arch=x86-64-v4")
#define MEMX_ISA avx512
#if !defined(__clang__)  // it compiles target regions for the baseline, without the intrinsics
#define MEMX_AVX512
#endif
#include "engine_table.h"

namespace memx {

const Engine& avx512_engine() {
  static constexpr Engine engine = avx512::make_engine<64>("avx512");
  return engine;
}

}  // namespace memx

#endif
