// The CUDA engine on the CPU: reads a layer from standard input and runs it, forward and, if asked
// to, backward. The other side is tests/cuda_on_host/engine.py, which gives the order of everything.
//
// Every tensor, and every piece of the workspace, is an allocation of its own, filled with NaN and
// of exactly its size: AddressSanitizer sees what is read or written beside it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "layer.h"
#include "primitives.h"

namespace memx::cuda {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

class ExactMemory : public Workspace {
 public:
  void* allocate(int64_t bytes) override {
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, bytes) != 0) {
      std::abort();
    }
    std::memset(memory, 0xff, bytes);
    blocks_.emplace_back(memory);
    return memory;
  }

 private:
  std::vector<std::unique_ptr<void, Free>> blocks_;
};

void read(void* target, size_t bytes) {
  if (std::fread(target, 1, bytes, stdin) != bytes) {
    std::fprintf(stderr, "the input ends too early\n");
    std::_Exit(4);
  }
}

int64_t read_number() {
  int64_t number;
  read(&number, sizeof(number));
  return number;
}

int read_int() { return int(read_number()); }

// An array, after its size in bytes; -1 stands for none.
void* read_array(Workspace& memory) {
  const int64_t bytes = read_number();
  if (bytes < 0) {
    return nullptr;
  }
  void* array = memory.allocate(bytes);
  read(array, bytes);
  return array;
}

struct Array {
  void* memory;
  int64_t bytes;
};

// An array to be filled, of so many bytes; none for -1.
Array read_result(Workspace& memory) {
  const int64_t bytes = read_number();
  return {bytes < 0 ? nullptr : memory.allocate(bytes), bytes < 0 ? 0 : bytes};
}

IncomingGradient read_gradient(Workspace& memory) {
  IncomingGradient gradient{};
  gradient.memory = read_array(memory);
  gradient.step = read_number();
  gradient.image = read_number();
  gradient.channel = read_number();
  gradient.row = read_number();
  gradient.column = read_number();
  return gradient;
}

Layer read_layer(Workspace& memory) {
  Layer layer{};
  layer.type = NumberType(read_int());
  layer.steps = read_number();
  for (int* field : {&layer.batch, &layer.input_channels, &layer.input_height, &layer.input_width,
                     &layer.hidden, &layer.height, &layer.width, &layer.kernel_height,
                     &layer.kernel_width, &layer.input_kernel_height, &layer.input_kernel_width,
                     &layer.padding_rows, &layer.padding_columns}) {
    *field = read_int();
  }
  layer.spatial_peepholes = read_int();
  layer.output_sees_current = read_int();
  read(&layer.hard_sigmoid_slope, sizeof(layer.hard_sigmoid_slope));
  layer.multiprocessors = read_int();
  for (const void** field : {&layer.x, &layer.weight_ih, &layer.weight_hh, &layer.bias,
                             &layer.weight_ch, &layer.h_0, &layer.c_0, &layer.hidden_mask}) {
    *field = read_array(memory);
  }
  layer.lengths = static_cast<const int64_t*>(read_array(memory));
  return layer;
}

// The backward pass, of which gate gradients and the cell state's gradient always are results.
std::vector<Array> run_backward(const Layer& layer, const ForwardResults& saved, Workspace& memory,
                                Stream stream) {
  BackwardArguments arguments{};
  arguments.output = read_gradient(memory);
  arguments.h_n = read_gradient(memory);
  arguments.hidden = saved.output;
  arguments.cells = saved.cells;
  arguments.gates = saved.gates;
  arguments.saved_gates = saved.saved_gates;
  std::vector<Array> results;
  const int64_t cell_bytes = read_number();
  arguments.cell_gradient = memory.allocate(cell_bytes);
  read(arguments.cell_gradient, cell_bytes);
  results.push_back({arguments.cell_gradient, cell_bytes});
  for (void** field :
       {&arguments.gate_gradients, &arguments.x, &arguments.weight_ih, &arguments.weight_hh,
        &arguments.bias, &arguments.weight_ch, &arguments.h_0}) {
    results.push_back(read_result(memory));
    *field = results.back().memory;
  }
  backward(layer, arguments, memory, stream);
  return results;
}

int run() {
  ExactMemory memory;
  const uint32_t seed = uint32_t(read_number());
  Machine machine(seed, read_number() != 0);
  const Layer layer = read_layer(memory);
  ForwardResults forward_results{};
  forward_results.keeps_cells = read_number() != 0;
  forward_results.saved_gates = read_number();
  std::vector<Array> results;
  for (void** field : {&forward_results.output, &forward_results.cells, &forward_results.gates}) {
    results.push_back(read_result(memory));
    *field = results.back().memory;
  }
  forward(layer, forward_results, memory, &machine);
  if (read_number() != 0) {
    const std::vector<Array> gradients = run_backward(layer, forward_results, memory, &machine);
    results.insert(results.end(), gradients.begin(), gradients.end());
  }
  for (const Array& array : results) {
    if (array.memory != nullptr) {
      std::fwrite(array.memory, 1, array.bytes, stdout);
    }
  }
  return 0;
}

}  // namespace
}  // namespace memx::cuda

int main() { return memx::cuda::run(); }
