// The driver of moe_swiglu: gather and prepare the rows of every group, then gate and up with SwiGLU, then down, each
// phase as one flat list of tasks over all groups.
//
// What differs between coded and dense experts is the Policy:
//   std::size_t gate_row_bytes(e), up_row_bytes(e) (0: the up projection reads the gate's rows), hidden_row_bytes(e)
//   void prepare(e, x, hidden, gate_row, up_row)      one row of x in the form gate and up read
//   int intermediate_bands(e)                         128-wide bands of the input of down
//   void gate_band(e, band, rows, stride, m, y, scratch), up_band(...), down_band(...)      y[m][128]
//   void store_hidden(e, band, gate, up, m, rows, stride)      silu(gate) * up in the form down reads
//   std::size_t scratch_bytes()
// with e an ExpertWeights and rows arrays of prepared rows `stride` bytes apart.
#pragma once

#include <algorithm>

#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/trellis_band/driver.h"

namespace fairway::kernels {

// Rows of one task at most: bounds the buffers of a worker, and the next rows pay for one more decode of the band.
constexpr int kMoeRowBlock = 256;
constexpr int kMoeSmallRowBlock = 64;  // if larger blocks would leave workers idle
// Rows of all groups that are in flight at a time: bounds the prepared copies (fp32: about 22 KiB a row for a hidden
// size of 2048 and an expert of 1536).
constexpr std::int64_t kMoeRowsInFlight = 1024;

template <class Policy>
class MoeDriver {
 public:
  MoeDriver(const MoeSwigluArgs& args, KernelContext& context, const Policy& policy)
      : args_(args), context_(context), policy_(policy) {}

  void run() {
    const int block = row_block();
    std::size_t group = 0;
    int begin = 0;  // first row of `group` that is not done
    while (group < args_.groups.size()) {
      backend::Workspace::Scope scope(context_.workspace);
      // Every group gives at most one segment more than its rows fill.
      const std::size_t most = static_cast<std::size_t>(kMoeRowsInFlight / block) + args_.groups.size() - group + 1;
      segments_ = context_.workspace.template alloc<Segment>(most);
      segment_count_ = 0;
      rows_ = 0;
      while (group < args_.groups.size() && rows_ < kMoeRowsInFlight && segment_count_ < most) {
        const ExpertGroup& g = args_.groups[group];
        const int m = std::min(block, g.m - begin);
        if (m > 0) add_segment(g, begin, m);
        begin += m;
        if (begin >= g.m) {
          ++group;
          begin = 0;
        }
      }
      if (segment_count_ > 0) run_segments(std::min<std::int64_t>(block, rows_));
    }
  }

 private:
  // Consecutive rows of one group.
  struct Segment {
    const ExpertWeights* expert;
    const std::int32_t* rows;
    int m;
    std::int64_t slot_begin, row_begin;
    std::uint8_t *gate_rows, *up_rows, *hidden_rows;
    std::int64_t gate_stride, up_stride, hidden_stride;
  };
  struct Task {
    std::int32_t segment, band;
  };
  struct WorkerBuffers {
    float *first, *second;  // [block][128]
    std::uint8_t* scratch;
  };

  int row_block() const {
    std::int64_t tasks = 0;
    int largest = 1;
    for (const ExpertGroup& g : args_.groups) {
      if (g.m <= 0) continue;
      largest = std::max(largest, g.m);
      tasks += std::int64_t{(g.m + kMoeRowBlock - 1) / kMoeRowBlock} * policy_.intermediate_bands(*g.expert);
    }
    const bool few = tasks < 4 * context_.pool.size();
    return std::min(largest, few ? kMoeSmallRowBlock : kMoeRowBlock);
  }

  std::uint8_t* alloc_rows(int m, std::int64_t stride) {
    return context_.workspace.template alloc<std::uint8_t>(static_cast<std::size_t>(m * stride));
  }
  static std::int64_t aligned(std::size_t bytes) {
    return (static_cast<std::int64_t>(bytes) + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  }

  void add_segment(const ExpertGroup& g, int begin, int m) {
    Segment& s = segments_[segment_count_++];
    s.expert = g.expert;
    s.rows = g.rows + begin;
    s.m = m;
    s.slot_begin = g.slot_begin + begin;
    s.row_begin = rows_;
    rows_ += m;
    s.gate_stride = aligned(policy_.gate_row_bytes(*g.expert));
    s.up_stride = aligned(policy_.up_row_bytes(*g.expert));
    s.hidden_stride = aligned(policy_.hidden_row_bytes(*g.expert));
    s.gate_rows = alloc_rows(m, s.gate_stride);
    s.up_rows = s.up_stride == 0 ? s.gate_rows : alloc_rows(m, s.up_stride);
    s.hidden_rows = alloc_rows(m, s.hidden_stride);
  }

  void run_segments(std::int64_t block) {
    const int workers = context_.pool.size();
    buffers_ = context_.workspace.template alloc<WorkerBuffers>(static_cast<std::size_t>(workers));
    for (int w = 0; w < workers; ++w) {
      const auto floats = static_cast<std::size_t>(block * kBandWidth);
      buffers_[w].first = context_.workspace.template alloc<float>(floats);
      buffers_[w].second = context_.workspace.template alloc<float>(floats);
      buffers_[w].scratch = context_.workspace.template alloc<std::uint8_t>(policy_.scratch_bytes());
    }
    prepare_rows();
    for_each_band([this](const Segment& s) { return policy_.intermediate_bands(*s.expert); },
                  [this](const Segment& s, int band, const WorkerBuffers& b) { hidden_band(s, band, b); });
    for_each_band([this](const Segment&) { return band_count(args_.hidden); },
                  [this](const Segment& s, int band, const WorkerBuffers& b) { output_band(s, band, b); });
  }

  void prepare_rows() {
    auto* owner = context_.workspace.template alloc<std::int32_t>(static_cast<std::size_t>(rows_));
    for (std::size_t i = 0; i < segment_count_; ++i) {
      std::fill_n(owner + segments_[i].row_begin, segments_[i].m, static_cast<std::int32_t>(i));
    }
    context_.pool.parallel_for(rows_, [&](std::int64_t row, int) {
      const Segment& s = segments_[owner[row]];
      const std::int64_t r = row - s.row_begin;
      std::uint8_t* up_row = s.up_stride == 0 ? nullptr : s.up_rows + r * s.up_stride;
      policy_.prepare(*s.expert, args_.x + s.rows[r] * args_.ldx, args_.hidden, s.gate_rows + r * s.gate_stride,
                      up_row);
    });
  }

  template <class BandsOf, class Body>
  void for_each_band(const BandsOf& bands_of, const Body& body) {
    std::int64_t count = 0;
    for (std::size_t i = 0; i < segment_count_; ++i) count += bands_of(segments_[i]);
    auto* tasks = context_.workspace.template alloc<Task>(static_cast<std::size_t>(count));
    Task* next = tasks;
    for (std::size_t i = 0; i < segment_count_; ++i) {
      for (int band = 0; band < bands_of(segments_[i]); ++band) *next++ = {static_cast<std::int32_t>(i), band};
    }
    context_.pool.parallel_for(count, [&](std::int64_t task, int worker) {
      body(segments_[tasks[task].segment], tasks[task].band, buffers_[worker]);
    });
  }

  void hidden_band(const Segment& s, int band, const WorkerBuffers& b) {
    policy_.gate_band(*s.expert, band, s.gate_rows, s.gate_stride, s.m, b.first, b.scratch);
    const bool shared = s.up_stride == 0;
    policy_.up_band(*s.expert, band, s.up_rows, shared ? s.gate_stride : s.up_stride, s.m, b.second, b.scratch);
    policy_.store_hidden(*s.expert, band, b.first, b.second, s.m, s.hidden_rows, s.hidden_stride);
  }

  void output_band(const Segment& s, int band, const WorkerBuffers& b) {
    policy_.down_band(*s.expert, band, s.hidden_rows, s.hidden_stride, s.m, b.first, b.scratch);
    const int begin = band * kBandWidth;
    const int count = std::min(kBandWidth, args_.hidden - begin);
    for (int r = 0; r < s.m; ++r) {
      std::copy_n(b.first + r * kBandWidth, count, args_.y + (s.slot_begin + r) * args_.hidden + begin);
    }
  }

  const MoeSwigluArgs& args_;
  KernelContext& context_;
  const Policy& policy_;
  Segment* segments_ = nullptr;
  std::size_t segment_count_ = 0;
  std::int64_t rows_ = 0;
  WorkerBuffers* buffers_ = nullptr;
};

}  // namespace fairway::kernels
