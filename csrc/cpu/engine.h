// The tile kernels compiled for each instruction set, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "step.h"
#include "storage.h"

namespace memx {

struct Engine {
  const char* name;
  int64_t vector_bytes;
  TileKernels<float, float> float32;
  TileKernels<double, double> float64;
  TileKernels<Bfloat16, float> bfloat16;
  TileKernels<Float16, float> float16;

  template <class S>
  const TileKernels<S, accumulate_t<S>>& kernels() const;
};

template <>
inline const TileKernels<float, float>& Engine::kernels<float>() const {
  return float32;
}
template <>
inline const TileKernels<double, double>& Engine::kernels<double>() const {
  return float64;
}
template <>
inline const TileKernels<Bfloat16, float>& Engine::kernels<Bfloat16>() const {
  return bfloat16;
}
template <>
inline const TileKernels<Float16, float>& Engine::kernels<Float16>() const {
  return float16;
}

const Engine& baseline_engine();
#if defined(__x86_64__)
const Engine& avx2_engine();
const Engine& avx512_engine();
#endif

// Engines this processor can run, slowest first; never empty.
std::vector<const Engine*> supported_engines();

// The engine in use: the last supported one unless select_engine() was called.
const Engine& engine();

// Throws std::invalid_argument for an engine this processor cannot run. Not for use while kernels
// run.
void select_engine(const std::string& name);

}  // namespace memx
