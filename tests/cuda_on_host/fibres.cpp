#include "fibres.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace memx::cuda::fibres {

constexpr size_t kStackBytes = 256 << 10;
constexpr int kLanes = 32;
constexpr size_t kAlignment = 128;  // of shared memory

// A stack and the registers of whoever ran on it last.
struct Context {
  ucontext_t registers;
  const void* stack = nullptr;
  size_t bytes = 0;
  void* shadow = nullptr;  // AddressSanitizer's
};

enum class Waiting { kNo, kForWarp, kForBlock, kEnded };

struct Thread {
  Fibre fibre;
  Context context;
  std::unique_ptr<char[]> stack;
  Waiting waiting;
};

// What the lanes of a warp have brought to a collective so far.
struct Gathering {
  Collective action = nullptr;
  void* lanes[kLanes];
  int arrived = 0;
};

struct State {
  std::mt19937 random;
  bool copies_land_at_once;
  std::vector<std::unique_ptr<Thread>> pool;
  std::vector<Gathering> warps;
  Context scheduler;
  Block block;
  const std::function<void()>* kernel;
  Thread* running;
};

namespace {

State* machine = nullptr;  // the one that runs a block

const char* name_of(Waiting waiting) {
  return waiting == Waiting::kForBlock  ? "waits in barrier()"
         : waiting == Waiting::kForWarp ? "waits in a collective"
                                        : "has ended";
}

// AddressSanitizer has to know which stack is in use.
void announce_switch(Context& from, const Context& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.shadow, to.stack, to.bytes);
#else
  (void)from, (void)to;
#endif
}

void complete_switch(Context& to, Context* from) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(to.shadow, from ? &from->stack : nullptr,
                                  from ? &from->bytes : nullptr);
#else
  (void)to, (void)from;
#endif
}

void switch_context(Context& from, Context& to) {
  announce_switch(from, to);
  swapcontext(&from.registers, &to.registers);
  complete_switch(from, nullptr);
}

void run_thread() {
  Thread& self = *machine->running;
  complete_switch(self.context, &machine->scheduler);
  (*machine->kernel)();
  const auto& groups = self.fibre.groups;
  if (!self.fibre.uncommitted.empty() ||
      std::any_of(groups.begin(), groups.end(), [](const auto& group) { return !group.empty(); })) {
    fail("the thread ends before its copies have landed");
  }
  self.waiting = Waiting::kEnded;
  switch_context(self.context, machine->scheduler);
}

void start(Thread& thread, int number) {
  if (thread.stack == nullptr) {
    thread.stack = std::make_unique<char[]>(kStackBytes);
    thread.context.stack = thread.stack.get();
    thread.context.bytes = kStackBytes;
  }
  thread.fibre = {number, {}, {}};
  thread.waiting = Waiting::kNo;
  thread.context.shadow = nullptr;
  getcontext(&thread.context.registers);
  thread.context.registers.uc_stack.ss_sp = thread.stack.get();
  thread.context.registers.uc_stack.ss_size = kStackBytes;
  makecontext(&thread.context.registers, run_thread, 0);
}

void suspend(Waiting waiting) {
  Thread& self = *machine->running;
  self.waiting = waiting;
  switch_context(self.context, machine->scheduler);
}

// Runs a warp until all its lanes wait for other warps or have ended. Says whether any lane ran.
bool run_warp(int warp) {
  bool any = false;
  for (bool ran = true; ran; any |= ran) {
    ran = false;
    for (int lane = 0; lane < kLanes; ++lane) {
      Thread& thread = *machine->pool[warp * kLanes + lane];
      if (thread.waiting == Waiting::kNo) {
        machine->running = &thread;
        switch_context(machine->scheduler, thread.context);
        ran = true;
      }
    }
  }
  return any;
}

int count(Waiting waiting) {
  return std::count_if(machine->pool.begin(), machine->pool.begin() + machine->block.threads,
                       [&](const auto& thread) { return thread->waiting == waiting; });
}

[[noreturn]] void report_deadlock() {
  for (int number = 0; number < machine->block.threads; ++number) {
    machine->running = machine->pool[number].get();
    if (machine->running->waiting != Waiting::kEnded) {
      fail(name_of(machine->running->waiting));
    }
  }
  std::abort();
}

void run_all_warps() {
  const int threads = machine->block.threads;
  std::vector<int> order(threads / kLanes);
  std::iota(order.begin(), order.end(), 0);
  while (count(Waiting::kEnded) < threads) {
    std::shuffle(order.begin(), order.end(), machine->random);
    bool progress = false;
    for (const int warp : order) {
      progress |= run_warp(warp);
    }
    if (count(Waiting::kForBlock) == threads) {
      for (int number = 0; number < threads; ++number) {
        machine->pool[number]->waiting = Waiting::kNo;
      }
    } else if (!progress) {
      report_deadlock();
    }
  }
}

void land(const Copy& copy) {
  if (copy.source == nullptr) {
    std::memset(copy.target, 0, copy.bytes);
  } else {
    std::memcpy(copy.target, copy.source, copy.bytes);
  }
}

}  // namespace

Fibre& current() { return machine->running->fibre; }

const Block& block() { return machine->block; }

void fail(const char* message) {
  const Block& block = machine->block;
  std::fprintf(stderr, "block %d %d %d, thread %d: %s\n", block.x, block.y, block.z,
               current().thread, message);
  std::_Exit(3);
}

void wait_for_block() { suspend(Waiting::kForBlock); }

void wait_for_warp(Collective action, void* brought) {
  const int thread = current().thread;
  Gathering& gathering = machine->warps[thread / kLanes];
  if (gathering.arrived > 0 && gathering.action != action) {
    fail("is in another collective than the lanes before it");
  }
  gathering.action = action;
  gathering.lanes[thread % kLanes] = brought;
  if (++gathering.arrived < kLanes) {
    suspend(Waiting::kForWarp);
    return;
  }
  action(gathering.lanes);
  gathering.arrived = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    machine->pool[thread / kLanes * kLanes + lane]->waiting = Waiting::kNo;
  }
}

void copy(const Copy& copy) {
  if (machine->copies_land_at_once) {
    land(copy);
  } else {
    current().uncommitted.push_back(copy);
  }
}

void commit_copies() {
  Fibre& self = current();
  self.groups.push_back(std::move(self.uncommitted));
  self.uncommitted.clear();
}

void wait_copies(size_t pending) {
  std::vector<std::vector<Copy>>& groups = current().groups;
  while (groups.size() > pending) {
    for (const Copy& copy : groups.front()) {
      land(copy);
    }
    groups.erase(groups.begin());
  }
}

Machine::Machine(uint32_t seed, bool copies_land_at_once) : state_(new State) {
  state_->random.seed(seed);
  state_->copies_land_at_once = copies_land_at_once;
}

Machine::~Machine() { delete state_; }

void Machine::run_block(const Block& block, size_t shared_bytes,
                        const std::function<void()>& kernel) {
  machine = state_;
  machine->block = block;
  machine->kernel = &kernel;
  machine->warps.assign(block.threads / kLanes, {});
  while (machine->pool.size() < size_t(block.threads)) {
    machine->pool.push_back(std::make_unique<Thread>());
  }
  for (int number = 0; number < block.threads; ++number) {
    start(*machine->pool[number], number);
  }
  void* memory = nullptr;
  if (block.threads % kLanes != 0 || block.threads > 1024 ||
      posix_memalign(&memory, kAlignment, shared_bytes) != 0) {
    std::fprintf(stderr, "a block of %d threads and %zu bytes\n", block.threads, shared_bytes);
    std::_Exit(3);
  }
  std::memset(memory, 0xff, shared_bytes);
  machine->block.shared_memory = static_cast<char*>(memory);
  run_all_warps();
  std::free(memory);
}

}  // namespace memx::cuda::fibres
