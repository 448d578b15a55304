// The engine as its callers see it: plain pointers and sizes, in the notation of csrc/ops.cpp.
// Needs neither CUDA nor PyTorch.
#pragma once

#include <cstdint>

namespace memx::cuda {

enum class NumberType { kFloat32, kTensorFloat32, kFloat64, kBfloat16, kFloat16 };

// The sizes of a convolution, before anything is decided.
struct ImageSizes {
  int height, width, channels;
  int kernel_height, kernel_width;
  int padding_rows, padding_columns;
};

// A layer and its sequence: at least one step, image, channel and pixel. All tensors are dense and
// their memory aligned to 16 bytes; images have their channels last, parameters are as PyTorch has
// them. Null: absent.
struct Layer {
  NumberType type;
  int64_t steps;
  int batch;
  int input_channels, input_height, input_width;
  int hidden, height, width;  // channels and size of the states
  int kernel_height, kernel_width;
  int input_kernel_height, input_kernel_width;
  int padding_rows, padding_columns;  // of the input convolution
  bool spatial_peepholes, output_sees_current;
  double hard_sigmoid_slope;  // 0: the logistic sigmoid
  int multiprocessors;        // of the GPU

  const void* x;            // (T, B, Hx, Wx, Cin), or input gates (T, B, H, W, 4, C)
  const void* weight_ih;    // (4C, Cin, kh, kw)
  const void* weight_hh;    // (4C, C, kh, kw)
  const void* bias;         // (4C,)
  const void* weight_ch;    // (3, C), or (3, C, H, W) if spatial_peepholes
  const void* h_0;          // (B, H, W, C)
  const void* c_0;          // (B, H, W, C) of the accumulation type
  const void* hidden_mask;  // (B, H, W, C), multiplies H_{t-1} on its way into its convolution
  // (B,): the steps of every sequence, after which nothing of it is read; null: all steps.
  const int64_t* lengths;

  int64_t image_pixels() const { return int64_t{height} * width; }
  int64_t state_size() const { return batch * image_pixels() * hidden; }
  int64_t frame_size() const {
    return int64_t{batch} * input_height * input_width * input_channels;
  }
  ImageSizes frame_sizes() const {
    return {input_height,       input_width,  input_channels, input_kernel_height,
            input_kernel_width, padding_rows, padding_columns};
  }
  ImageSizes state_sizes() const {
    return {height,          width, hidden, kernel_height, kernel_width, kernel_height / 2,
            kernel_width / 2};
  }
};

// What the forward pass writes: zeros after the end of a sequence, of which `cells` without
// keeps_cells has the last.
struct ForwardResults {
  void* output;  // (T, B, H, W, C)
  void* cells;   // (T, B, H, W, C) of the accumulation type; (B, H, W, C) without keeps_cells
  bool keeps_cells;
  void* gates;  // (saved_gates, B, H, W, 4, C), of the last steps
  int64_t saved_gates;
};

// An incoming gradient (.., B, C, H, W) of any strides; null: zeros.
struct IncomingGradient {
  const void* memory;
  int64_t step, image, channel, row, column;
};

// What the backward pass reads of the forward's results, and the gradients that it writes; null:
// not wanted.
struct BackwardArguments {
  IncomingGradient output, h_n;
  const void* hidden;  // the forward's output
  const void* cells;   // (T, B, H, W, C)
  const void* gates;
  int64_t saved_gates;
  void* gate_gradients;  // (T, B, H, W, 4, C): the gradient of ready-made input gates
  void* cell_gradient;   // (B, H, W, C) of the accumulation type: of c_n in, of c_0 out

  void* x;          // (T, B, Hx, Wx, Cin)
  void* weight_ih;  // as the layer's
  void* weight_hh;
  void* bias;
  void* weight_ch;
  void* h_0;  // (B, H, W, C)
};

// Memory on the device that lasts as long as its owner.
class Workspace {
 public:
  virtual ~Workspace() = default;
  virtual void* allocate(int64_t bytes) = 0;
  template <class T>
  T* array(int64_t count) {
    return static_cast<T*>(allocate(count * int64_t(sizeof(T))));
  }
};

// Everything is enqueued on the stream, a cudaStream_t; nothing waits, and no memory is allocated from
// one step to the next. Both throw std::runtime_error where CUDA reports an error.
void forward(const Layer& layer, const ForwardResults& results, Workspace& workspace, void* stream);
void backward(const Layer& layer, const BackwardArguments& arguments, Workspace& workspace,
              void* stream);

}  // namespace memx::cuda
