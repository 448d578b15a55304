// What one launch of the tile kernels is told: plain pointers, shapes and strides, no torch.
//
// Shapes are written as in the Python docs: B batch, H and W the image, C hidden channels. S is the
// type tensors are stored in, O the operand type of the products and A the type arithmetic is done
// in (types.h).
//
// Interleaved gates. Inside, the 4*C gate columns are ordered so that whoever computes a vector of
// channels holds all four of its gates: [channel block][gate i,f,g,o][lane], a block being one
// vector of `lanes` channels; a partial last block is padded with zeros. A panel is two vectors
// wide, so panel 2b holds (i, f) and panel 2b+1 holds (g, o) of channel block b.
#pragma once

#include <cstdint>

#include "types.h"

namespace memx {

constexpr int64_t kPanelVectors = 2;  // width of a weight panel, in vectors
constexpr int64_t kBlockRows = 6;     // pixels a register block: 6 x 2 vectors are 12 accumulators

// Numbers in a row of a matrix register (matrix_tiles.h).
constexpr int64_t kRegisterNumbers = 32;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// One batch of images [B, channels, height, width] with any strides (in elements; zero too).
template <class T>
struct Frame {
  T* data = nullptr;
  int64_t batch = 0, channel = 0, row = 0, column = 0;
  int64_t height = 0, width = 0;

  T* at(int64_t b, int64_t y, int64_t x) const { return data + b * batch + y * row + x * column; }
};

// A rectangle of pixels of one image: what a thread computes of a step at a time.
struct Tile {
  int64_t batch, row, column, rows, columns;

  int64_t pixels() const { return rows * columns; }
};

// Calls body(part) for the parts of a tile: of the columns of `largest`, then of as many `whole` ones as
// are left over, then of the rest, each with at most as many pixels.
template <class Body>
void for_parts(const Tile& tile, const Tile& largest, int64_t whole, const Body& body) {
  const int64_t last_row = tile.row + tile.rows, last_column = tile.column + tile.columns;
  for (int64_t column = tile.column; column < last_column;) {
    const int64_t left_over = last_column - column;
    const int64_t columns = left_over >= largest.columns ? largest.columns
                            : left_over > whole          ? left_over / whole * whole
                                                         : left_over;
    const int64_t most_rows = largest.pixels() / columns;
    for (int64_t row = tile.row; row < last_row; row += most_rows) {
      const int64_t rows = last_row - row < most_rows ? last_row - row : most_rows;
      body(Tile{tile.batch, row, column, rows, columns});
    }
    column += columns;
  }
}

// Products that two neighbouring outputs of a filter of odd `taps`, at least 3, cost: filter.h.
constexpr int64_t filter_products(int64_t taps) { return 4 + (taps - 3) / 2 * 3; }

// How a convolution is computed, and its weights packed in panels of output columns:
//   direct    [panel][kernel row][operand][2 * lanes][number of the operand]
//   gathered  the same for a kernel of one row that sees all numbers under the real one, filled up to
//             a whole row of a matrix register: for few channels (matrix_tiles.h)
//   Winograd  [panel][position][in channel][2 * lanes]  (winograd.h; operands of one number only)
// The operands of a kernel row are its kernel columns' channels in a row, [kernel column][in
// channel], filled up with zeros to a whole operand.
enum class Algorithm { kDirect, kGathered, kWinograd };

// A zero-padded convolution of stride 1.
template <class O>
struct Convolution {
  const number_t<O>* weights = nullptr;
  int64_t in_channels = 0;
  int64_t height = 1, width = 1;  // of the kernel
  int64_t pad_rows = 0, pad_columns = 0;
  int64_t panels = 0;
  Algorithm algorithm = Algorithm::kDirect;

  bool winograd() const { return algorithm == Algorithm::kWinograd; }
  bool gathered() const { return algorithm == Algorithm::kGathered; }
  int64_t numbers() const { return height * width * in_channels; }  // under the kernel
  int64_t row_operands() const { return ceil_div(width * in_channels, depth<O>); }
  // What a gathered one is to the gathered image: a kernel of one pixel.
  Convolution of_gathered() const {
    Convolution one = *this;
    one.in_channels = round_up(numbers(), kRegisterNumbers);
    one.height = one.width = 1;
    one.pad_rows = one.pad_columns = 0;
    one.algorithm = Algorithm::kDirect;
    return one;
  }
  // How far a pixel sees.
  int64_t reach_of_rows() const { return reach(height, pad_rows); }
  int64_t reach_of_columns() const { return reach(width, pad_columns); }
  // Of a transformed block of Winograd's.
  int64_t positions() const { return filter_products(height) * filter_products(width); }

 private:
  static int64_t reach(int64_t taps, int64_t padding) {
    const int64_t after = taps - 1 - padding;
    return padding > after ? padding : after;
  }
};

// The sizes every step of a sequence shares; height and width are those of the states.
struct Sizes {
  int64_t batch, height, width, hidden;
  int64_t lanes;  // channels a vector holds

  int64_t channel_blocks() const { return ceil_div(hidden, lanes); }
  int64_t gate_columns() const { return channel_blocks() * kGates * lanes; }
  int64_t panel_width() const { return kPanelVectors * lanes; }
  int64_t pixels() const { return height * width; }
};

// Peephole weights [3, P, C] with P = H*W ("spatial") or 1 (the same for every pixel). Absent
// peepholes are a row of zeros: one code path, and the products cost nothing beside the
// convolution.
template <class A>
struct Peepholes {
  const A* weights = nullptr;
  int64_t pixel_stride = 0;  // C, or 0 when all pixels share one row
  int64_t gate_stride = 0;   // P * C
  bool output_sees_current = false;
};

// Step t of the forward pass: C_{t-1}, H_{t-1}, X_t -> C_t, H_t and, when training, the gates.
template <class S, class O>
struct ForwardStep {
  using A = accumulate_t<O>;

  Sizes sizes;
  Convolution<O> input_convolution;  // weights null: `input_frame` holds ready-made input gates
  Convolution<O> hidden_convolution;
  Frame<const S> input_frame;      // X_t, or input gates [B, 4*C, H, W]
  Frame<const S> hidden_frame;     // H_{t-1}; data null: zeros
  const S* hidden_mask = nullptr;  // [B, H, W, C], times H_{t-1} in the convolution; null: ones
  const A* bias = nullptr;         // [gate_columns]
  Peepholes<A> peepholes;
  A hard_sigmoid_slope = 0;          // 0: the logistic sigmoid
  const A* previous_cell = nullptr;  // [B, H, W, C]; null: zeros
  A* cell = nullptr;                 // [B, H, W, C]; may be `previous_cell`
  S* hidden = nullptr;               // [B, H, W, C]
  S* gates = nullptr;                // [B, H, W, 4, C] after activation, or null
};

// Where a pixel's peephole gradients [3][C] are added, by strides as in a tensor. Spatial peepholes
// have a place for every pixel. Those shared by all pixels have one for every column of a tile, so
// that no long chain of additions arises; they are summed afterwards.
template <class A>
struct PeepholeGradient {
  A* data = nullptr;
  int64_t row = 0, column = 0, gate = 0;
  bool of_tile = false;  // columns count from the tile's first, not from the image's
  bool first = false;    // nothing has been added yet, and the places are not cleared

  A* at(const Tile& tile, int64_t y, int64_t x) const {
    return data + y * row + (of_tile ? x - tile.column : x) * column;
  }
};

// Where one slot of strips (strips.h) accumulates parameter gradients (null: not wanted). Slots depend
// on the shapes, never on the number of threads, and are summed in order afterwards: so results do not
// depend on the thread count.
template <class A>
struct ParameterGradients {
  A* input_weights = nullptr;  // panels as packed by weight_gradient_elements()
  A* hidden_weights = nullptr;
  A* bias = nullptr;  // [gate_columns]
  PeepholeGradient<A> peepholes;
};

// Gradients of the pre-activations of one step, [B, H, W, gate columns] inside a border of zeros:
// what a transposed convolution sees outside the image.
template <class N>
struct GatePlane {
  N* data = nullptr;  // pixel (0, 0) of the first image
  int64_t row = 0, image = 0;
};

// Step t of the backward pass.
template <class S, class O>
struct BackwardStep {
  using A = accumulate_t<O>;

  ForwardStep<S, O> forward;         // recomputes the gates if `forward.gates` is null
  Convolution<O> hidden_transposed;  // gate gradients -> gradient of H
  GatePlane<const number_t<O>> next_gate_gradient;  // of step t+1; data null at t = T-1
  GatePlane<number_t<O>> gate_gradient;             // of step t: the result
  Frame<const S> output_gradient;                   // of H_t, from above; data null: none
  Frame<const S> final_gradient;                    // of H_T, at t = T-1 only; data null: none
  const A* cell = nullptr;                          // C_t  [B, H, W, C]
  const A* next_cell_gradient = nullptr;            // of C_t  [B, H, W, C]; null: zeros
  A* cell_gradient = nullptr;                       // of C_{t-1}; may be `next_cell_gradient`
  Frame<S> input_gates_gradient;  // of ready-made input gates; data null: not wanted
};

// From the gate gradients of one step to the gradient of a frame that was convolved: X_t or H_0.
template <class S, class O>
struct FrameGradientStep {
  Sizes sizes;
  Convolution<O> transposed;
  GatePlane<const number_t<O>> gate_gradient;
  int64_t channels = 0;
  Frame<S> gradient;  // [B, channels, its height, its width]
};

// A table of the compiled tile kernels of one instruction set, storage and operand type. `scratch`
// is the calling thread's, of as many bytes as the *_scratch function says.
template <class S, class O>
struct TileKernels {
  void (*forward)(const ForwardStep<S, O>&, const Tile&, char* scratch);
  int64_t (*forward_scratch)(const ForwardStep<S, O>&, const Tile& largest);
  void (*backward)(const BackwardStep<S, O>&, const ParameterGradients<accumulate_t<O>>&,
                   const Tile&, char* scratch);
  int64_t (*backward_scratch)(const BackwardStep<S, O>&, const Tile& largest);
  void (*frame_gradient)(const FrameGradientStep<S, O>&, const Tile&, char* scratch);
  int64_t (*frame_gradient_scratch)(const FrameGradientStep<S, O>&, const Tile& largest);
};

}  // namespace memx
