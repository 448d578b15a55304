// The threads of a CUDA block as fibres of one CPU thread, for csrc/cuda/primitives_host.h.
//
// A warp runs as far ahead of the others as barriers let it; seeds shuffle which goes first. A copy
// lands either when it is asked for or when it is waited for: a barrier that is missing before
// memory is filled again shows in the first, a wait that is missing in the second.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace memx::cuda::fibres {

struct Copy {
  char* target;
  const void* source;  // null: zeros
  size_t bytes;
};

// A thread of the block that runs.
struct Fibre {
  int thread;
  std::vector<Copy> uncommitted;
  std::vector<std::vector<Copy>> groups;  // on their way, oldest first
};

struct Block {
  int x, y, z, threads;
  char* shared_memory = nullptr;
};

// Does what a collective does, given what each of the 32 lanes brought.
using Collective = void (*)(void* const (&lanes)[32]);

Fibre& current();
const Block& block();

[[noreturn]] void fail(const char* message);
void wait_for_block();
void wait_for_warp(Collective action, void* brought);
void copy(const Copy& copy);
void commit_copies();
void wait_copies(size_t pending);

class Machine {
 public:
  Machine(uint32_t seed, bool copies_land_at_once);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  void run_block(const Block& block, size_t shared_bytes, const std::function<void()>& kernel);

 private:
  struct State* const state_;
};

}  // namespace memx::cuda::fibres
