// The kernels for processors with matrix registers for bfloat16 (AMX-TILE, AMX-BF16) beside
// AVX512_BF16. Only those of bfloat16 tensors differ from the AVX-512 ones.
//
// Everything that may define a shared inline function is included before the target region, so that
// no other object file can end up calling a copy made for this instruction set.
//
// Not for clang, as engine_avx512_bf16.cpp says.
#if defined(__x86_64__) && !defined(__clang__)

#include <immintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "step.h"

namespace memx {

bool matrix_registers_granted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  // ARCH_REQ_XCOMP_PERM for the state component of the registers' data. It holds for all threads of
  // the process; asking again does no harm.
  constexpr long kRequestPermission = 0x1023, kRegisterData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kRegisterData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace memx

#pragma GCC target("arch=x86-64-v4,avx512bf16,amx-tile,amx-bf16")
#define MEMX_ISA amx_bf16
#define MEMX_AVX512
#define MEMX_BFLOAT16_PAIRS
#define MEMX_MATRIX_REGISTERS
#include "engine_table.h"

namespace memx {

const Engine& amx_bf16_engine() {
  static const Engine engine = [] {
    Engine changed = avx512_engine();
    changed.name = "amx_bf16";
    changed.bfloat16_pairs = amx_bf16::tile_kernels<Bfloat16, Bfloat16Pair, 64>();
    changed.matrix_registers = true;
    return changed;
  }();
  return engine;
}

}  // namespace memx

#endif
