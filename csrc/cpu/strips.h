// The order in which the tiles of a sequence are computed: strip by strip, not step by step.
//
// A strip is a tile's rectangle of one image through all steps, computed by one thread: what a step
// leaves is in the cache of the next. Where images have several tiles in a direction, it moves from step
// to step, up or to the left, as far as a convolution sees. So what it sees of the step before is its
// own, or of strips above it and to its left, which have been there already. In one direction:
//
//      step 0    step 1    step 2
//                         +------+
//               +------+  |  0   |
//     +------+  |  0   |  +------+
//     |  0   |  +------+  |  1   |   a convolution in strip 1 at step 2 sees strips 0 and 1 at step 1
//     +------+  |  1   |  +------+
//     |  1   |  +------+  |  2   |
//     +------+  |  2   |  +------+
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "step.h"
#include "tuning.h"

namespace memx {

// Strips along the rows or the columns of images.
class Bands {
 public:
  // Of images at most `extent` long, of which a tile has `length`. A step sees `reach` before and after
  // what it computes, and so may what follows on it, which lies a shift further. Bands move by even
  // numbers, as Winograd's blocks are two pixels long.
  Bands(int64_t extent, int64_t length, int64_t reach, int64_t steps)
      : extent_(extent),
        length_(length),
        shift_(length < extent ? round_up(reach, 2) : 0),
        seen_(shift_ > 0 ? ceil_div(shift_ + reach, length) : 0),
        count_(ceil_div(extent + shift_ * steps, length)) {}

  int64_t count() const { return count_; }
  // How many before a band are seen by it.
  int64_t seen() const { return seen_; }
  // That may be computed at the same time.
  int64_t at_once() const { return std::min(count_, ceil_div(extent_, length_) + seen_); }

  // The first row or column of a band after so many shifts.
  int64_t first(int64_t band, int64_t shifts) const { return band * length_ - shift_ * shifts; }

  // Nothing of the band, or of what lies a shift further, is inside the image before the one step, or
  // from the other on.
  int64_t begin(int64_t band) const {
    const int64_t outside = band * length_ - extent_;
    return shift_ > 0 && outside >= 0 ? outside / shift_ : 0;
  }
  int64_t end(int64_t band, int64_t steps) const {
    return shift_ > 0 ? std::min(steps, ceil_div((band + 1) * length_, shift_)) : steps;
  }

 private:
  int64_t extent_, length_, shift_, seen_, count_;
};

struct Strip {
  int64_t image, row, column;  // the latter two are bands
};

// Who adds to the same sums. Images are dealt out to `count` queues in turn, and the places of a queue's
// strips to `slots` in turn. The strips of a slot come one after the other, and what those of a queue
// add at the same pixel comes in one order, whatever the number of threads.
struct Queues {
  int64_t count, slots;
};

class Strips {
 public:
  Strips(int64_t images, const Bands& rows, const Bands& columns, int64_t steps)
      : images_(images), steps_(steps), rows_(rows), columns_(columns) {}

  int64_t places() const { return rows_.count() * columns_.count(); }
  int64_t places_at_once() const { return rows_.at_once() * columns_.at_once(); }
  int64_t place(const Strip& strip) const { return strip.row * columns_.count() + strip.column; }
  int64_t first_row(const Strip& strip, int64_t shifts) const {
    return rows_.first(strip.row, shifts);
  }
  int64_t first_column(const Strip& strip, int64_t shifts) const {
    return columns_.first(strip.column, shifts);
  }

  // Calls body(strip, step, phase) for every strip, step and phase of a step, by all threads. All strips
  // that it sees are as far then.
  template <class Body>
  void run(int64_t phases, const Queues& queues, const Body& body) const {
    tuning().strips ? run_by_strips(phases, queues, body) : run_by_steps(phases, queues, body);
  }

 private:
  // Strips are begun in one order, place by place as the images' peepholes of a place stay in the cache,
  // and wait for earlier ones only.
  template <class Body>
  void run_by_strips(int64_t phases, const Queues& queues, const Body& body) const {
    const int64_t count = images_ * places();
    Progress progress(count);
    std::atomic<int64_t> next = 0;
    const auto work = [&](int64_t, int64_t) noexcept {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
        const int64_t place = i / images_;
        const Strip strip = strip_at(i % images_, place);
        const int64_t last = last_of_queue(strip.image, queues);
        if (strip.image >= queues.count) {
          progress.wait(i - queues.count, steps_ * phases);
        } else if (place >= queues.slots) {
          progress.wait((place - queues.slots) * images_ + last, steps_ * phases);
        }
        for (int64_t step = begin(strip), last_step = end(strip); step < last_step; ++step) {
          for (int64_t phase = 0; phase < phases; ++phase) {
            progress.set(i, step * phases + phase);
            wait_for_seen(progress, {last, strip.row, strip.column}, step * phases + phase);
            body(strip, step, phase);
          }
        }
        progress.set(i, steps_ * phases);
      }
    };
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), count), 1, work);
  }

  // What strips are measured against: all of a step, then the next. Images of a queue come one after the
  // other, and so do the places of a slot.
  template <class Body>
  void run_by_steps(int64_t phases, const Queues& queues, const Body& body) const {
    const int64_t slots = std::min(queues.slots, places());
    for (int64_t step = 0; step < steps_; ++step) {
      for (int64_t phase = 0; phase < phases; ++phase) {
        for (int64_t first = 0; first < images_; first += queues.count) {
          const int64_t images = std::min(queues.count, images_ - first);
          at::parallel_for(0, images * slots, 1, [&](int64_t from, int64_t to) {
            for (int64_t i = from; i < to; ++i) {
              for (int64_t place = i / images; place < places(); place += slots) {
                const Strip strip = strip_at(first + i % images, place);
                if (begin(strip) <= step && step < end(strip)) {
                  body(strip, step, phase);
                }
              }
            }
          });
        }
      }
    }
  }

  Strip strip_at(int64_t image, int64_t place) const {
    return {image, place / columns_.count(), place % columns_.count()};
  }
  // The steps at which some of a strip is inside the image.
  int64_t begin(const Strip& strip) const {
    return std::max(rows_.begin(strip.row), columns_.begin(strip.column));
  }
  int64_t end(const Strip& strip) const {
    return std::min(rows_.end(strip.row, steps_), columns_.end(strip.column, steps_));
  }

  // How many phases of all steps each strip has behind it.
  class Progress {
   public:
    explicit Progress(int64_t strips) : done_(new std::atomic<int64_t>[strips]()) {}
    void set(int64_t strip, int64_t phases) {
      done_[strip].store(phases, std::memory_order_release);
    }
    void wait(int64_t strip, int64_t phases) const {
      while (done_[strip].load(std::memory_order_acquire) < phases) {
        std::this_thread::yield();
      }
    }

   private:
    std::unique_ptr<std::atomic<int64_t>[]> done_;
  };

  void wait_for_seen(const Progress& progress, const Strip& strip, int64_t phases) const {
    for (int64_t row = std::max<int64_t>(0, strip.row - rows_.seen()); row <= strip.row; ++row) {
      const int64_t first = std::max<int64_t>(0, strip.column - columns_.seen());
      const int64_t last = row < strip.row ? strip.column : strip.column - 1;
      for (int64_t column = first; column <= last; ++column) {
        progress.wait(place({0, row, column}) * images_ + strip.image, phases);
      }
    }
  }
  int64_t last_of_queue(int64_t image, const Queues& queues) const {
    const int64_t first = image % queues.count;
    return first + (images_ - 1 - first) / queues.count * queues.count;
  }

  int64_t images_, steps_;
  Bands rows_, columns_;
};

}  // namespace memx
