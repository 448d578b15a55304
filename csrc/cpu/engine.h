// The tile kernels compiled for each instruction set, and the choice among them.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "step.h"

namespace memx {

struct Engine {
  const char* name;
  int64_t vector_bytes;
  TileKernels<float, float> float32;
  TileKernels<double, double> float64;
  TileKernels<Bfloat16, float> bfloat16;
  TileKernels<Float16, float> float16;
  TileKernels<Bfloat16, Bfloat16Pair> bfloat16_pairs;  // null where there is no such instruction
  bool matrix_registers = false;                       // multiply them: matrix_tiles.h

  template <class S, class O>
  const TileKernels<S, O>& kernels() const {
    if constexpr (std::is_same_v<O, Bfloat16Pair>) {
      return bfloat16_pairs;
    } else if constexpr (std::is_same_v<S, Bfloat16>) {
      return bfloat16;
    } else if constexpr (std::is_same_v<S, Float16>) {
      return float16;
    } else if constexpr (std::is_same_v<S, double>) {
      return float64;
    } else {
      return float32;
    }
  }
};

const Engine& baseline_engine();
#if defined(__x86_64__)
const Engine& avx2_engine();
const Engine& avx512_engine();
const Engine& avx512_bf16_engine();
const Engine& amx_bf16_engine();

// Asks the system, once, for the use of the matrix registers.
bool matrix_registers_granted();
#endif

// Engines this processor can run, slowest first; never empty.
std::vector<const Engine*> supported_engines();

// The engine in use: the last supported one unless select_engine() was called.
const Engine& engine();

// Throws std::invalid_argument for an engine this processor cannot run. Not for use while kernels
// run.
void select_engine(const std::string& name);

}  // namespace memx
