// The order in which the tiles of a sequence are computed: strip by strip, not step by step.
//
// A strip is as many rows of one image as a tile has, through all steps, computed by one thread: what
// a step leaves is in the cache of the next. It moves up by `shift` rows from step to step, which is as
// far as a convolution sees. So what it sees of the step before is its own, or of the strips above it,
// which have been there already.
//
//      step 0   step 1   step 2
//     +------+
//     |  0   |+------+
//     +------+|  0   |+------+
//     |  1   |+------+|  0   |
//     +------+|  1   |+------+   a convolution in strip 1 at step 2 sees strips 0 and 1 at step 1
//     |  2   |+------+|  1   |
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "step.h"

namespace memx {

struct Strip {
  int64_t image, band;
};

// Who adds to the same sums. Images are dealt out to `count` lanes in turn, and the bands of a lane to
// `slots` in turn. The strips of a slot come one after the other, and what two bands of a lane add in
// the same row comes in the order of the bands, whatever the number of threads.
struct Lanes {
  int64_t count, slots;
};

class Strips {
 public:
  // Of images of which at most `rows` are computed in a step, `height` of them at a time. A step sees
  // `reach` rows above and below what it computes. Strips move by even numbers, as Winograd's blocks are
  // two rows high.
  Strips(int64_t images, int64_t rows, int64_t height, int64_t reach, int64_t steps)
      : images_(images),
        height_(height),
        shift_(height < rows ? round_up(reach, 2) : 0),
        seen_(shift_ > 0 ? ceil_div(shift_ + reach, height) : 0),
        bands_(ceil_div(rows + shift_ * steps, height)) {}

  int64_t bands() const { return bands_; }
  int64_t first_row(const Strip& strip, int64_t shifts) const {
    return strip.band * height_ - shift_ * shifts;
  }

  // Calls body(strip, phase) for all strips and so many phases, by all threads. What a phase finds is
  // that all strips it sees are at least as far. Strips are begun in one order, band by band as the
  // images' peepholes of a place stay in the cache, and wait for earlier ones only.
  template <class Body>
  void run(int64_t phases, const Lanes& lanes, const Body& body) const {
    const int64_t count = images_ * bands_;
    const auto done = std::make_unique<std::atomic<int64_t>[]>(count);  // phases of each
    const auto wait = [&](int64_t image, int64_t band, int64_t until) {
      while (done[band * images_ + image].load(std::memory_order_acquire) < until) {
        std::this_thread::yield();
      }
    };
    std::atomic<int64_t> next = 0;
    const auto work = [&](int64_t, int64_t) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
        const Strip strip{i % images_, i / images_};
        const int64_t last = last_of_lane(strip.image, lanes);
        if (strip.image >= lanes.count) {
          wait(strip.image - lanes.count, strip.band, phases);
        } else if (strip.band >= lanes.slots) {
          wait(last, strip.band - lanes.slots, phases);
        }
        for (int64_t phase = 0; phase < phases; ++phase) {
          for (int64_t band = std::max<int64_t>(0, strip.band - seen_); band < strip.band; ++band) {
            wait(last, band, phase);
          }
          body(strip, phase);
          done[i].store(phase + 1, std::memory_order_release);
        }
      }
    };
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), count), 1, work);
  }

 private:
  int64_t last_of_lane(int64_t image, const Lanes& lanes) const {
    const int64_t lane = image % lanes.count;
    return lane + (images_ - 1 - lane) / lanes.count * lanes.count;
  }

  int64_t images_, height_, shift_;
  int64_t seen_;  // strips above
  int64_t bands_;
};

}  // namespace memx
