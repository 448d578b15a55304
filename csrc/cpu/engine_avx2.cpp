// The kernels for processors with AVX2 and FMA: 256-bit vectors.
//
// Everything that may define a shared inline function is included before the target region, so that
// no other object file can end up calling a copy made for this instruction set.
#if defined(__x86_64__)

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "step.h"

#pragma GCC target("arch=x86-64-v3")
#define MEMX_ISA avx2
#include "engine_table.h"

namespace memx {

const Engine& avx2_engine() {
  static constexpr Engine engine = avx2::make_engine<32>("avx2");
  return engine;
}

}  // namespace memx

#endif
