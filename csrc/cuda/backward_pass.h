// The backward pass: one launch a step, the last first, then the sums over all steps.
#pragma once

#include <vector>

#include "backward_step.h"
#include "forward_pass.h"
#include "gradient_planning.h"
#include "image_gradient.h"
#include "parameter_sums.h"

namespace memx::cuda {

// A weight gradient is cut into so many parts that a GPU is full, unless they would be very short
// or their sums take too much memory. A multiprocessor has one block at a time.
constexpr int64_t kMostWaves = 4;
constexpr double kGoodUse = 0.9;
constexpr int64_t kFewestTiles = 8;
constexpr int64_t kMostPartBytes = 64 << 20;

// Images that a convolution read, and the gate gradients that it led to.
template <class S>
struct ConvolvedImages {
  const S* images;
  const S* gate_gradients;
  int64_t count;
  int64_t first_step;  // of the batches that follow each other
};

template <class Numbers>
class BackwardPass {
 public:
  using S = typename Numbers::storage;
  using A = typename Numbers::accumulate;

  BackwardPass(const Layer& layer, const BackwardArguments& arguments, Workspace& workspace,
               Stream stream)
      : layer_(layer),
        arguments_(arguments),
        workspace_(workspace),
        stream_(stream),
        hidden_(static_cast<const S*>(arguments.hidden)),
        cells_(static_cast<const A*>(arguments.cells)),
        gate_gradients_(static_cast<S*>(arguments.gate_gradients)),
        size_(layer.state_size()) {}

  void run() {
    run_steps();
    if (arguments_.x != nullptr) {
      image_gradient_of(layer_.weight_ih, layer_.frame_sizes(), layer_.steps * layer_.batch,
                        nullptr, arguments_.x);
    }
    if (arguments_.h_0 != nullptr) {
      image_gradient_of(layer_.weight_hh, layer_.state_sizes(), layer_.batch, layer_.hidden_mask,
                        arguments_.h_0);
    }
    if (arguments_.weight_ih != nullptr) {
      weight_gradient_of(
          {{static_cast<const S*>(layer_.x), gate_gradients_, layer_.steps * layer_.batch, 0}},
          layer_.frame_sizes(), nullptr, arguments_.weight_ih);
    }
    if (arguments_.weight_hh != nullptr) {
      weight_gradient_of(previous_hidden(), layer_.state_sizes(), layer_.hidden_mask,
                         arguments_.weight_hh);
    }
    if (arguments_.bias != nullptr || arguments_.weight_ch != nullptr) {
      sum_parameters();
    }
  }

 private:
  // A transposed convolution of gate gradients to images of these sizes.
  ImageSizes transposed_sizes(const ImageSizes& sizes) const {
    return {layer_.height,
            layer_.width,
            4 * layer_.hidden,
            sizes.kernel_height,
            sizes.kernel_width,
            sizes.kernel_height - 1 - sizes.padding_rows,
            sizes.kernel_width - 1 - sizes.padding_columns};
  }

  // Plans and packs such a convolution; says how the blocks are to be launched.
  template <class Shape>
  Grid prepare(Convolution<1>& convolution, const void* weight, const ImageSizes& sizes,
               int64_t images) {
    Operand& operand = convolution.operand[0];
    operand.image = image_of<S>(gate_gradients_, transposed_sizes(sizes));
    const Extent extent{images, sizes.height, sizes.width, ceil_div(sizes.channels, kQuadColumns)};
    const Grid grid = plan<Shape>(convolution, extent, layer_.multiprocessors);
    pack<Shape>(operand, weight, Direction::kTransposed, layer_.hidden, sizes.channels, workspace_,
                stream_);
    return grid;
  }

  // body(Shape{}): large blocks, wide ones where there are channels for them. Where there would be too few
  // to fill the GPU, small ones whose warps share K, one of them or two a multiprocessor.
  template <class Body>
  void with_shape(const ImageSizes& sizes, int64_t images, const Body& body) const {
    const int64_t pixels = images * sizes.height * sizes.width;
    const auto fills = [&](auto shape) {
      using Shape = decltype(shape);
      return ceil_div(pixels, Shape::kPixels) *
                 ceil_div(sizes.channels, Shape::kBlockQuads * kQuadColumns) >=
             layer_.multiprocessors;
    };
    const bool is_wide = sizes.channels > kQuadColumns;
    if (is_wide && fills(WideBackward<Numbers>{})) {
      body(WideBackward<Numbers>{});
    } else if (!is_wide && fills(TallBackward<Numbers>{})) {
      body(TallBackward<Numbers>{});
    } else if (fills(SharedBackward<Numbers, 2>{})) {
      body(SharedBackward<Numbers, 2>{});
    } else {
      body(SharedBackward<Numbers, 1>{});
    }
  }

  void run_steps() {
    const ForwardPass<Numbers> forward(layer_, workspace_, stream_);
    if (layer_.lengths != nullptr) {
      clear(gate_gradients_, layer_.steps * 4 * size_ * sizeof(S), stream_);
    }
    const int64_t first_saved = layer_.steps - arguments_.saved_gates;
    S* computed_again = first_saved > 0 ? workspace_.array<S>(4 * size_) : nullptr;
    const S* saved = static_cast<const S*>(arguments_.gates);
    with_shape(layer_.state_sizes(), layer_.batch, [&](auto shape) {
      using Shape = decltype(shape);
      BackwardStep<Numbers> step{};
      step.hidden = layer_.hidden;
      step.lengths = layer_.lengths;
      step.hidden_mask = static_cast<const S*>(layer_.hidden_mask);
      step.peepholes = peepholes_of<Numbers>(layer_, workspace_, stream_);
      step.equations = equations_of<A>(layer_);
      step.cell_gradient = static_cast<A*>(arguments_.cell_gradient);
      const Grid grid =
          prepare<Shape>(step.convolution, layer_.weight_hh, layer_.state_sizes(), layer_.batch);
      for (int64_t t = layer_.steps - 1; t >= 0; --t) {
        step.gates = t < first_saved ? computed_again : saved + (t - first_saved) * 4 * size_;
        if (t < first_saved) {
          forward.launch_step(t, hidden_before(t), cell_before(t), nullptr, nullptr,
                              computed_again);
        }
        launch(backward_step<Shape>, grid, Shape::kThreads, step.convolution.memory.bytes(),
               stream_, at_step(step, t));
      }
    });
  }

  BackwardStep<Numbers> at_step(BackwardStep<Numbers> step, int64_t t) const {
    const bool is_last = t == layer_.steps - 1;
    Image& following = step.convolution.operand[0].image;
    following.memory = gate_gradients_ + (t + 1) * 4 * size_;
    if (is_last) {
      following.chunks = 0;
    }
    if (is_last || layer_.lengths != nullptr) {
      step.final_gradient = strided(arguments_.h_n, 0);
    }
    step.t = t;
    step.output_gradient = strided(arguments_.output, t);
    step.cell = cells_ + t * size_;
    step.previous_cell = cell_before(t);
    step.gate_gradients = gate_gradients_ + t * 4 * size_;
    return step;
  }

  static StridedImages<S> strided(const IncomingGradient& gradient, int64_t t) {
    const S* memory = static_cast<const S*>(gradient.memory);
    if (memory != nullptr) {
      memory += t * gradient.step;
    }
    const bool is_aligned = gradient.channel == 1 &&
                            reinterpret_cast<uintptr_t>(memory) % alignof(Four<S>) == 0 &&
                            (gradient.image | gradient.row | gradient.column) % kUnitChannels == 0;
    return {memory, gradient.image, gradient.channel, gradient.row, gradient.column, is_aligned};
  }

  const S* hidden_before(int64_t t) const {
    return t == 0 ? static_cast<const S*>(layer_.h_0) : hidden_ + (t - 1) * size_;
  }
  const A* cell_before(int64_t t) const {
    return t == 0 ? static_cast<const A*>(layer_.c_0) : cells_ + (t - 1) * size_;
  }

  // H_{t-1} of every step but those where it is zero.
  std::vector<ConvolvedImages<S>> previous_hidden() const {
    std::vector<ConvolvedImages<S>> groups;
    if (layer_.h_0 != nullptr) {
      groups.push_back({static_cast<const S*>(layer_.h_0), gate_gradients_, layer_.batch, 0});
    }
    if (layer_.steps > 1) {
      groups.push_back(
          {hidden_, gate_gradients_ + 4 * size_, (layer_.steps - 1) * int64_t{layer_.batch}, 1});
    }
    return groups;
  }

  // `mask`, if there is one, multiplied the images before they were convolved.
  void image_gradient_of(const void* weight, const ImageSizes& sizes, int64_t images,
                         const void* mask, void* gradient) {
    with_shape(sizes, images, [&](auto shape) {
      using Shape = decltype(shape);
      ImageGradient<Numbers> work{};
      work.channels = sizes.channels;
      work.mask = static_cast<const S*>(mask);
      work.gradient = static_cast<S*>(gradient);
      const Grid grid = prepare<Shape>(work.convolution, weight, sizes, images);
      launch(image_gradient<Shape>, grid, Shape::kThreads, work.convolution.memory.bytes(), stream_,
             work);
    });
  }

  void weight_gradient_of(const std::vector<ConvolvedImages<S>>& groups, const ImageSizes& sizes,
                          const void* mask, void* gradient) {
    WeightGradient<Numbers> work{};
    work.image = image_of<S>(nullptr, sizes, mask, layer_.batch);
    work.gradients =
        image_of<S>(nullptr, {layer_.height, layer_.width, 4 * layer_.hidden, 1, 1, 0, 0});
    work.lengths = layer_.lengths;
    work.batch = layer_.batch;
    plan(work);
    const int taps = work.image.taps();
    const Grid grid{work.image.chunks * work.groups,
                    int(ceil_div(work.gradients.channels, work.across() * kRunColumns<Numbers>))};
    const int64_t part_size = int64_t{taps} * work.image.depth() * work.gradients.channels;

    std::vector<int64_t> parts;
    int64_t all_parts = 0;
    for (const ConvolvedImages<S>& group : groups) {
      parts.push_back(parts_of(group.count * work.tiling.tiles(), grid.x * grid.y,
                               part_size * int64_t(sizeof(A))));
      all_parts += parts.back();
    }
    A* const memory = workspace_.array<A>(all_parts * part_size);
    work.parts = memory;
    for (size_t n = 0; n < groups.size(); ++n) {
      work.image.memory = groups[n].images;
      work.gradients.memory = groups[n].gate_gradients;
      work.first_step = groups[n].first_step;
      work.tiles = groups[n].count * work.tiling.tiles();
      work.tiles_a_part = ceil_div(work.tiles, parts[n]);
      launch(weight_gradient<Numbers>, {grid.x, grid.y, int(parts[n])}, 32 * work.warps(),
             shared_bytes(work), stream_, work);
      work.parts += parts[n] * part_size;
    }
    launch_add_parts<S, A>(
        {memory, static_cast<S*>(gradient), int(all_parts),
         sizes.kernel_height * sizes.kernel_width, sizes.channels, work.gradients.channels},
        stream_);
  }

  // So many that one wave of blocks, or a few, leave hardly a multiprocessor idle.
  int64_t parts_of(int64_t tiles, int64_t blocks_a_part, int64_t bytes_a_part) const {
    const int64_t most = std::min(ceil_div(tiles, kFewestTiles),
                                  std::max<int64_t>(1, kMostPartBytes / bytes_a_part));
    int64_t parts = 1;
    double best_use = 0;
    for (int64_t waves = 1; waves <= kMostWaves && best_use < kGoodUse; ++waves) {
      const int64_t blocks = waves * layer_.multiprocessors;
      const int64_t fitting = std::min(most, blocks / blocks_a_part);
      const double use = double(fitting * blocks_a_part) / double(blocks);
      if (use > best_use) {
        parts = fitting;
        best_use = use;
      }
    }
    return ceil_div(tiles, ceil_div(tiles, parts));
  }

  void sum_parameters() {
    const int hidden = layer_.hidden;
    const int channels = move_together<Numbers>(hidden) ? kChannelsTogether<Numbers> : 1;
    const int64_t blocks = parameter_blocks(rows_at_once(channels));
    const bool spatial = layer_.spatial_peepholes;
    ParameterSums<Numbers> work{};
    work.gate_gradients = gate_gradients_;
    work.cells = cells_;
    work.c_0 = static_cast<const A*>(layer_.c_0);
    work.rows_a_step = layer_.batch * layer_.image_pixels();
    work.rows = layer_.steps * work.rows_a_step;
    work.stride = spatial ? layer_.image_pixels() : blocks * rows_at_once(channels);
    work.hidden = hidden;
    work.output_sees_current = layer_.output_sees_current;
    work.sums_peepholes = arguments_.weight_ch != nullptr;
    work.bias = arguments_.bias == nullptr ? nullptr : workspace_.array<A>(blocks * 4 * hidden);
    if (spatial) {
      work.spatial = static_cast<S*>(arguments_.weight_ch);
    } else if (work.sums_peepholes) {
      work.peepholes = workspace_.array<A>(blocks * 3 * hidden);
    }
    launch(parameter_sums<Numbers>, {blocks, parameter_runs()}, kParameterThreads,
           parameter_bytes(channels, sizeof(A)), stream_, work);
    add_blocks(work.bias, arguments_.bias, blocks, 4 * hidden);
    add_blocks(work.peepholes, arguments_.weight_ch, blocks, 3 * hidden);
  }

  int parameter_runs() const { return int(ceil_div(layer_.hidden, kParameterChannels)); }

  // Blocks of a run of channels: for all pixels of an image if they have peepholes of their own, or as
  // many as a GPU has at once.
  int64_t parameter_blocks(int rows) const {
    const int64_t pixels = layer_.image_pixels();
    if (layer_.spatial_peepholes) {
      return ceil_div(pixels, rows);
    }
    return std::min(ceil_div(layer_.steps * layer_.batch * pixels, rows),
                    ceil_div(kParameterBlocks * layer_.multiprocessors, parameter_runs()));
  }

  // Sums of blocks that have so many each; null: not wanted.
  void add_blocks(const A* sums, void* result, int64_t blocks, int numbers) {
    if (sums != nullptr) {
      launch_add_parts<S, A>({sums, static_cast<S*>(result), int(blocks), 1, 1, numbers}, stream_);
    }
  }

  const Layer& layer_;
  const BackwardArguments& arguments_;
  Workspace& workspace_;
  const Stream stream_;
  const S* const hidden_;
  const A* const cells_;
  S* const gate_gradients_;
  const int64_t size_;  // of a state
};

}  // namespace memx::cuda
