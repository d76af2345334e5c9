// The driver of moe_swiglu: gather and prepare the rows of every group, then gate and up with SwiGLU, then down, each
// phase as one flat list of tasks over all groups. A task is a band of 128 outputs for a block of rows, or one half of
// it (Tile::workers = 2): whoever ends second finishes the band.
//
// What differs between coded and dense experts is the Policy:
//   Decode decode(group)                              how the rows of a group are multiplied, a value
//   std::size_t gate_row_bytes(d, e), up_row_bytes(d, e) (0: the up projection reads the gate's rows),
//       hidden_row_bytes(d, e)
//   void prepare(d, e, x, hidden, gate_row, up_row)   one row of x in the form gate and up read
//   InputForm input_form(d, e)                        what that form depends on
//   int intermediate_bands(e)                         128-wide bands of the input of down
//   void gate_part(d, at, rows, y, scratch), up_part(d, at, next, rows, y, scratch), down_part(...)
//                                                     the columns of a part in y[m][128]
//   void finish_hidden(d, e, band, gate, up, m, rows, stride)   silu(gate) * up in the form down reads
//   void finish_output(d, e, band, m, y)
//   std::size_t scratch_bytes()
// with d the Decode of the group, e an ExpertWeights, at and next ExpertParts, and rows arrays of prepared rows.
#pragma once

#include <algorithm>
#include <atomic>

#include "kernels/moe_swiglu/moe_swiglu.h"
#include "kernels/moe_swiglu/shared_rows.h"
#include "kernels/trellis_band/driver.h"

namespace fairway::kernels {

constexpr int kMoeSmallRowBlock = 64;  // most rows of a task if larger blocks would leave workers idle
// Rows of all groups that are in flight at a time: bounds the prepared copies (fp32: about 22 KiB a row for a hidden
// size of 2048 and an expert of 1536) and the outputs of shared bands (as much again).
constexpr std::int64_t kMoeRowsInFlight = 1024;

// What a task computes of the matrices of an expert.
struct ExpertPart {
  const ExpertWeights* expert;  // null: nothing
  BandPart part;
};

template <class Policy>
class MoeDriver {
 public:
  MoeDriver(const MoeSwigluArgs& args, const Tile& tile, KernelContext& context, const Policy& policy)
      : args_(args), tile_(tile), context_(context), policy_(policy) {}

  void run() {
    const int block = row_block();
    std::size_t group = 0;
    int begin = 0;  // first row of `group` that is not done
    while (group < args_.groups.size()) {
      backend::Workspace::Scope scope(context_.workspace);
      // Blocks of a group are of even size, so at least half full, but for groups of few rows.
      const std::size_t most = static_cast<std::size_t>(2 * kMoeRowsInFlight / block) + args_.groups.size() - group + 1;
      segments_ = context_.workspace.template alloc<Segment>(most);
      segment_count_ = 0;
      rows_ = 0;
      while (group < args_.groups.size() && rows_ < kMoeRowsInFlight && segment_count_ < most) {
        const ExpertGroup& g = args_.groups[group];
        const int left = g.m - begin;
        const int blocks = (left + block - 1) / block;
        if (left > 0) begin += add_segment(g, begin, (left + blocks - 1) / blocks);
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
    typename Policy::Decode decode;
    InputForm form;
    const std::int32_t* rows;
    int m;
    std::int64_t slot_begin, row_begin;
    std::uint8_t *gate_rows, *up_rows, *hidden_rows;
    std::int64_t gate_stride, up_stride, hidden_stride;

    std::uint8_t* gate_row(std::int64_t r) const { return gate_rows + r * gate_stride; }
    std::uint8_t* up_row(std::int64_t r) const { return up_stride == 0 ? nullptr : up_rows + r * up_stride; }
  };
  struct Task {
    std::int32_t segment, band;
  };
  // One band of one segment that workers share.
  struct SharedBand {
    float* y;            // [2][m][128]
    std::uint32_t done;  // parts
  };

  // Outputs of a band while it is computed: of gate and up, or of down in the first.
  struct Outputs {
    float *first, *second;  // [m][128]
    std::uint8_t* scratch;
  };

  int row_block() const {
    std::int64_t tasks = 0;
    int largest = 1;
    for (const ExpertGroup& g : args_.groups) {
      if (g.m <= 0) continue;
      largest = std::max(largest, g.m);
      tasks += (std::int64_t{g.m} + tile_.m - 1) / tile_.m * policy_.intermediate_bands(*g.expert);
    }
    const bool few = tasks < 4 * context_.pool.size();
    return std::min({largest, tile_.m, few ? kMoeSmallRowBlock : tile_.m});
  }

  std::uint8_t* alloc_rows(int m, std::int64_t stride) {
    return context_.workspace.template alloc<std::uint8_t>(static_cast<std::size_t>(m * stride));
  }
  static std::int64_t aligned(std::size_t bytes) {
    return (static_cast<std::int64_t>(bytes) + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  }

  int add_segment(const ExpertGroup& g, int begin, int m) {
    Segment& s = segments_[segment_count_++];
    s.expert = g.expert;
    s.decode = policy_.decode(g);
    s.form = policy_.input_form(s.decode, *g.expert);
    s.rows = g.rows + begin;
    s.m = m;
    s.slot_begin = g.slot_begin + begin;
    s.row_begin = rows_;
    rows_ += m;
    s.gate_stride = aligned(policy_.gate_row_bytes(s.decode, *g.expert));
    s.up_stride = aligned(policy_.up_row_bytes(s.decode, *g.expert));
    s.hidden_stride = aligned(policy_.hidden_row_bytes(s.decode, *g.expert));
    s.gate_rows = alloc_rows(m, s.gate_stride);
    s.up_rows = s.up_stride == 0 ? s.gate_rows : alloc_rows(m, s.up_stride);
    s.hidden_rows = alloc_rows(m, s.hidden_stride);
    return m;
  }

  void run_segments(std::int64_t block) {
    const int workers = context_.pool.size();
    const auto floats = static_cast<std::size_t>(block * kBandWidth);
    outputs_ = context_.workspace.template alloc<Outputs>(static_cast<std::size_t>(workers));
    for (int w = 0; w < workers; ++w) {
      outputs_[w].first = context_.workspace.template alloc<float>(floats);
      outputs_[w].second = context_.workspace.template alloc<float>(floats);
      outputs_[w].scratch = context_.workspace.template alloc<std::uint8_t>(policy_.scratch_bytes());
    }
    prepare_rows();
    for_each_band([this](const Segment& s) { return policy_.intermediate_bands(*s.expert); }, HiddenPhase{*this});
    for_each_band([this](const Segment&) { return band_count(args_.hidden); }, OutputPhase{*this});
  }

  void prepare_rows() {
    auto* owner = context_.workspace.template alloc<std::int32_t>(static_cast<std::size_t>(rows_));
    for (std::size_t i = 0; i < segment_count_; ++i) {
      std::fill_n(owner + segments_[i].row_begin, segments_[i].m, static_cast<std::int32_t>(i));
    }
    const SharedRows shared = share_rows();
    context_.pool.parallel_for(shared.count(), [&](std::int64_t list, int) {
      const std::int32_t row = shared.row(list);
      const Segment& s = segments_[owner[row]];
      const std::int64_t r = row - s.row_begin;
      policy_.prepare(s.decode, *s.expert, args_.x + s.rows[r] * args_.ldx, args_.hidden, s.gate_row(r), s.up_row(r));
      for (auto copy = shared.next_copy(row); copy != SharedRows::kEnd; copy = shared.next_copy(copy)) {
        const Segment& to = segments_[owner[copy]];
        const std::int64_t at = copy - to.row_begin;
        std::copy_n(s.gate_row(r), s.gate_stride, to.gate_row(at));
        if (s.up_stride != 0) std::copy_n(s.up_row(r), s.up_stride, to.up_row(at));
      }
    });
  }

  SharedRows share_rows() {
    std::int32_t last = 0;
    for (std::size_t i = 0; i < segment_count_; ++i) {
      last = std::max(last, *std::max_element(segments_[i].rows, segments_[i].rows + segments_[i].m));
    }
    SharedRows shared(context_.workspace, rows_, std::int64_t{last} + 1);
    for (std::size_t i = 0; i < segment_count_; ++i) {
      const Segment& s = segments_[i];
      for (int r = 0; r < s.m; ++r) shared.add(static_cast<std::int32_t>(s.row_begin + r), s.rows[r], s.form);
    }
    return shared;
  }

  // phase.compute(segment, part, next, outputs) for every part of every band, phase.finish(segment, band, outputs) once
  // all parts of the band are computed.
  template <class BandsOf, class Phase>
  void for_each_band(const BandsOf& bands_of, const Phase& phase) {
    backend::Workspace::Scope scope(context_.workspace);
    std::int64_t count = 0;
    for (std::size_t i = 0; i < segment_count_; ++i) count += bands_of(segments_[i]);
    auto* bands = context_.workspace.template alloc<Task>(static_cast<std::size_t>(count));
    Task* next = bands;
    for (std::size_t i = 0; i < segment_count_; ++i) {
      for (int band = 0; band < bands_of(segments_[i]); ++band) *next++ = {static_cast<std::int32_t>(i), band};
    }
    const Task* tasks = a_run_per_worker(bands, count);
    const std::int64_t parts = tile_.workers;
    SharedBand* shared = parts > 1 ? share_bands(tasks, count) : nullptr;
    context_.pool.parallel_for(count * parts, [&](std::int64_t task, int worker) {
      const Task& t = tasks[task / parts];
      const Segment& s = segments_[t.segment];
      Outputs out = outputs_[worker];
      if (shared != nullptr) {
        out.first = shared[task / parts].y;
        out.second = out.first + s.m * kBandWidth;
      }
      const std::int64_t following = task + context_.pool.size();  // tasks are taken in order
      phase.compute(s, part_at(tasks, count, task), part_at(tasks, count, following), out);
      if (shared == nullptr || ends_band(shared[task / parts])) phase.finish(s, t.band, out);
    });
  }

  // The bands in the order in which they are taken: turn by turn one from the run of each worker. Neighbouring bands
  // share the cache lines and pages at their border, and fall to one worker so unless somebody is late.
  const Task* a_run_per_worker(const Task* bands, std::int64_t count) const {
    const std::int64_t workers = context_.pool.size();
    if (workers == 1) return bands;
    auto* tasks = context_.workspace.template alloc<Task>(static_cast<std::size_t>(count));
    Task* next = tasks;
    for (std::int64_t turn = 0; turn <= count / workers; ++turn) {
      for (std::int64_t w = 0; w < workers; ++w) {
        const std::int64_t at = count * w / workers + turn;
        if (at < count * (w + 1) / workers) *next++ = bands[at];
      }
    }
    return tasks;
  }

  ExpertPart part_at(const Task* tasks, std::int64_t count, std::int64_t task) const {
    const int parts = tile_.workers;
    if (task / parts >= count) return {nullptr, {}};
    const Task& t = tasks[task / parts];
    return {segments_[t.segment].expert, part_of_band(t.band, static_cast<int>(task % parts), parts)};
  }

  SharedBand* share_bands(const Task* tasks, std::int64_t count) {
    auto* shared = context_.workspace.template alloc<SharedBand>(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      const auto floats = static_cast<std::size_t>(2 * segments_[tasks[i].segment].m * kBandWidth);
      shared[i] = {context_.workspace.template alloc<float>(floats), 0};
    }
    return shared;
  }
  // Counts one part of the band as computed; true for its last one, which then sees what the others wrote.
  bool ends_band(SharedBand& band) const {
    const std::atomic_ref done(band.done);
    return done.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(tile_.workers);
  }

  struct HiddenPhase {
    const MoeDriver& driver;

    void compute(const Segment& s, const ExpertPart& at, const ExpertPart& next, const Outputs& out) const {
      driver.policy_.gate_part(s.decode, at, {s.gate_rows, s.gate_stride, s.m}, out.first, out.scratch);
      const std::int64_t stride = s.up_stride == 0 ? s.gate_stride : s.up_stride;
      driver.policy_.up_part(s.decode, at, next, {s.up_rows, stride, s.m}, out.second, out.scratch);
    }
    void finish(const Segment& s, int band, const Outputs& out) const {
      driver.policy_.finish_hidden(s.decode, *s.expert, band, out.first, out.second, s.m, s.hidden_rows,
                                   s.hidden_stride);
    }
  };

  struct OutputPhase {
    const MoeDriver& driver;

    void compute(const Segment& s, const ExpertPart& at, const ExpertPart& next, const Outputs& out) const {
      driver.policy_.down_part(s.decode, at, next, {s.hidden_rows, s.hidden_stride, s.m}, out.first, out.scratch);
    }
    void finish(const Segment& s, int band, const Outputs& out) const {
      driver.policy_.finish_output(s.decode, *s.expert, band, s.m, out.first);
      const MoeSwigluArgs& args = driver.args_;
      const int begin = band * kBandWidth;
      const int count = std::min(kBandWidth, args.hidden - begin);
      for (int r = 0; r < s.m; ++r) {
        std::copy_n(out.first + r * kBandWidth, count, args.y + (s.slot_begin + r) * args.hidden + begin);
      }
    }
  };

  const MoeSwigluArgs& args_;
  const Tile& tile_;
  KernelContext& context_;
  const Policy& policy_;
  Segment* segments_ = nullptr;
  std::size_t segment_count_ = 0;
  std::int64_t rows_ = 0;
  Outputs* outputs_ = nullptr;
};

}  // namespace fairway::kernels
