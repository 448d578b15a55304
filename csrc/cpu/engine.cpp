#include "engine.h"

#include <stdexcept>

namespace memx {

std::vector<const Engine*> supported_engines() {
  std::vector<const Engine*> engines{&baseline_engine()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v3")) {
    engines.push_back(&avx2_engine());
  }
  if (__builtin_cpu_supports("x86-64-v4")) {
    engines.push_back(&avx512_engine());
#if !defined(__clang__)
    if (__builtin_cpu_supports("avx512bf16")) {
      engines.push_back(&avx512_bf16_engine());
      if (__builtin_cpu_supports("amx-bf16") && matrix_registers_granted()) {
        engines.push_back(&amx_bf16_engine());
      }
    }
#endif
  }
#endif
  return engines;
}

namespace {
const Engine*& selected() {
  static const Engine* engine = supported_engines().back();
  return engine;
}
}  // namespace

const Engine& engine() { return *selected(); }

void select_engine(const std::string& name) {
  std::string supported;
  for (const Engine* candidate : supported_engines()) {
    if (candidate->name == name) {
      selected() = candidate;
      return;
    }
    supported += supported.empty() ? candidate->name : std::string(", ") + candidate->name;
  }
  throw std::invalid_argument("instruction set: got '" + name + "', this processor runs " +
                              supported);
}

}  // namespace memx
