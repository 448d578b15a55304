// The kernels for any processor: 128-bit vectors, which every 64-bit target has.
#define MEMX_ISA baseline
#include "engine_table.h"

namespace memx {

const Engine& baseline_engine() {
  static constexpr Engine engine = baseline::make_engine<16>("baseline");
  return engine;
}

}  // namespace memx
