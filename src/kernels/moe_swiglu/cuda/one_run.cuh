// What a CTA of the kernel for one token computes, its run of units, and the shared memory it does that in.
#pragma once

#include "kernels/moe_swiglu/cuda/stream_early.cuh"
#include "kernels/trellis_band/cuda/one_row_digits.cuh"

namespace fairway::kernels::cuda {

constexpr int kOneWarps = 2 * kTeamWarps;  // that compute

// How warps share units: kColumns, 1 or 2, columns of tiles each. Of gate and up a group of warps has every unit whose
// number is its own modulo kColumns, of down modulo 2 * kColumns.
//
// Warps that serve the computing ones: with two columns, where a CTA has many units, one for each scheduler of the SM,
// so that none has more to do than others. With fewer units that asks for the last weights before others have theirs:
// Qwen3-30B-A3B is 2 % slower.
template <int kColumns>
struct OneGroup {
  static constexpr int kWarps = kTeamWarps / kColumns, kLanes = 32 * kWarps;
  static constexpr int kGateUpShift = kColumns - 1, kDownShift = kColumns;
  static constexpr int kGateUpStep = 1 << kGateUpShift, kDownStep = 1 << kDownShift;
  static constexpr int kServers = 2 * kColumns, kThreads = 32 * (kOneWarps + kServers);
  static constexpr int kParts = kColumns;  // of a CTA's sums of a band: each group's own
};
constexpr int kOneComputeThreads = 32 * kOneWarps;
constexpr int kOnePieces = 2;  // bands that a run has a part of, at most
// CTAs that start late, because the router has their SMs while it makes the routes: the last ones. They share what the
// others leave.
constexpr int kOneLateShift = 3;
constexpr int kMostOneUnits = kOneWarps;                      // of a run
constexpr int kMostOneParts = kLinkedGateUp * kLinkedTokens;  // of bands: places in linked_gate_up
constexpr int kMostOneLayerUnits = 4096;                      // of a layer: places in one_down
constexpr int kUnitRows = kBandTiles;                         // a unit's copies: rows of tiles
constexpr int kRowBytesOfBit = 2 * kBand;                     // bytes of such a row for each bit

// Arguments are StreamArgs: ring_stages is the most units that a run may have.

// The whole part of n / divisor, in a third of the instructions of an integer division. For numbers up to 2^20, with
// quotients up to 2^12: what the factor is wrong by is far less than half of a divisor's inverse.
__device__ __forceinline__ unsigned small_quotient(unsigned n, unsigned divisor) {
  return static_cast<unsigned>((static_cast<float>(n) + 0.5f) * __fdividef(1.0f, static_cast<float>(divisor)));
}

// What a run has of one band: units `first` .. `first + count - 1` of the CTA.
struct OnePiece {
  const unsigned char* words[3];  // of gate, up and down: the first row of the first unit
  unsigned row_bytes[3];          // from one row of tiles to the next
  int bits[3];
  int expert, band;         // of its own
  int slot;                 // whose weight it has
  int block;                // of the hidden size, of its first unit
  int item;                 // the band, counted through all slots
  int first_cta, last_cta;  // that have units of the band
  int first, count;
};

struct OneTable {
  unsigned launch;
  int items;                // bands of all slots
  int count;                // of the run's units
  int early_ctas, working;  // CTAs that do not start late; that have units
  uint2 last;               // StreamState::one of the launch before
  OnePiece pieces[kOnePieces];
};

struct alignas(16) OneShared {
  std::uint64_t table_there;
  std::uint64_t row_there;                  // in front of the norm, if that is announced
  std::uint64_t rest_there;                 // of the table, and the weights of the slots
  std::uint64_t gate_up_done;               // by this CTA
  std::uint64_t middle[kOnePieces];         // a piece's inputs of down are there
  std::uint64_t full[3][kMostOneUnits];     // weights of gate, up and down
  std::uint64_t sums_there[kMostOneUnits];  // of a unit of down; behind full, see walk_units()
  std::uint64_t used[kMostOneUnits];        // gate and up of a unit, whose memory down needs
  std::uint64_t up_there[kOnePieces];       // of the inputs of down, see make_half_middle()
  OneTable table;
  OneStages at;       // here, because an argument that nobody has read yet is far away
  float weights[32];  // of the slots
  alignas(16) float sums[kMostOneUnits][kBand];
  alignas(16) float up[kOnePieces][kBand];  // of the inputs of down
  float squares[kMostEarlyBlocks];
  int touched[32];

  // By all threads. unit_lanes: of a group.
  __device__ __forceinline__ void init(int units, const OneStages& stages, int unit_lanes) {
    const int warp = threadIdx.x >> 5;
    if (threadIdx.x == 32 * kOneWarps) at = stages;
    if (!elected()) return;
    if (warp < units) {
#pragma unroll
      for (int matrix = 0; matrix < 3; ++matrix) barrier_init(&full[matrix][warp], 1);
      barrier_init(&sums_there[warp], unit_lanes);
      barrier_init(&used[warp], 2 * unit_lanes);
    }
    if (warp == kOneWarps) {
      barrier_init(&table_there, 32);
      barrier_init(&rest_there, 32);
      barrier_init(&gate_up_done, kOneComputeThreads);
    } else if (warp == kOneWarps + 1) {
#pragma unroll
      for (int piece = 0; piece < kOnePieces; ++piece) {
        barrier_init(&middle[piece], 32);
        barrier_init(&up_there[piece], 32);
      }
      barrier_init(&row_there, 32);
    }
    barrier_init_fence();
  }
};

// Dynamic shared memory: the weights of the units, see OneStages, OneShared, the inputs of gate and up by block, those
// of down by piece.
struct OneMemory {
  unsigned char* stages;
  OneShared& shared;
  unsigned char *inputs, *middle;

  __device__ OneMemory(const StreamArgs& a, unsigned char* memory)
      : stages(memory),
        shared(*reinterpret_cast<OneShared*>(memory + a.one.bytes)),
        inputs(reinterpret_cast<unsigned char*>(&shared + 1)),
        middle(inputs + a.layer.hidden / kBand * kOneBlockBytes) {}
  __device__ __forceinline__ unsigned char* stage(int matrix, int unit) const {
    return stages + shared.at.first[matrix] + unit * shared.at.step[matrix];
  }
};

static_assert(offsetof(ExpertRef, gate) == 0 && offsetof(ExpertRef, up) == sizeof(TrellisRef) &&
              offsetof(ExpertRef, down) == 2 * sizeof(TrellisRef));
// Without a branch, which where it is done would be some thirty instructions on everybody's way.
__device__ __forceinline__ const TrellisRef& matrix_of(const ExpertRef& e, int matrix) {
  return *(reinterpret_cast<const TrellisRef*>(&e) + matrix);
}

// How units are cut into runs, and what a lane of a warp has of this CTA's: lanes 0..5 the three matrices of both
// pieces. bands: of the lane's slot.
struct OneCut {
  int items, units;            // of all slots
  unsigned per_cta, per_late;  // units of a run of the first CTAs, and of the late ones behind them
  unsigned early_ctas, early_units;
  int count, first_count;  // of the run's units, and of those in its first band
  int piece, matrix;
  int slot, slot_bands, item, band, block, piece_count;  // of the piece

  __device__ __forceinline__ OneCut(const StreamArgs& a, int bands) {
    const int lane = threadIdx.x & 31, hidden_blocks = a.layer.hidden / kBand;
    const int past = sum_of_lanes(bands);
    items = __shfl_sync(kAllLanes, past, 31);
    units = items * hidden_blocks;
    per_cta = max(small_quotient(static_cast<unsigned>(units) + gridDim.x - 1, gridDim.x), 1u);
    const unsigned late_shift = gridDim.x >= 32 ? kOneLateShift : 0;
    early_ctas = gridDim.x - (1u << late_shift);
    early_units = min(static_cast<unsigned>(units), per_cta * early_ctas);
    const unsigned late_units = static_cast<unsigned>(units) - early_units;
    per_late = (late_units + (1u << late_shift) - 1) >> late_shift;
    const bool late = blockIdx.x >= early_ctas;
    const unsigned begin = late ? early_units + min(per_late * (blockIdx.x - early_ctas), late_units)
                                : min(per_cta * blockIdx.x, early_units);
    count = static_cast<int>(late ? min(per_late, static_cast<unsigned>(units) - begin)
                                  : min(per_cta, early_units - begin));
    const int first_item = static_cast<int>(small_quotient(begin, static_cast<unsigned>(hidden_blocks)));
    const int first_block = static_cast<int>(begin) - first_item * hidden_blocks;
    first_count = min(count, hidden_blocks - first_block);
    piece = lane < 3 ? 0 : 1;
    matrix = min(lane - 3 * piece, 2);
    item = first_item + piece;
    const unsigned before = __ballot_sync(kAllLanes, past <= first_item);
    const unsigned before_next = __ballot_sync(kAllLanes, past <= first_item + 1);
    slot = min(__popc(piece == 0 ? before : before_next), 31);
    slot_bands = __shfl_sync(kAllLanes, bands, slot);
    band = item - (__shfl_sync(kAllLanes, past, slot) - slot_bands);
    block = piece == 0 ? first_block : 0;
    piece_count = lane >= 3 * kOnePieces ? 0 : piece == 0 ? first_count : count - first_count;
  }
  // The CTA that has a unit.
  __device__ __forceinline__ int owner(int unit) const {
    const bool early = static_cast<unsigned>(unit) < early_units;
    const unsigned local = static_cast<unsigned>(unit) - (early ? 0 : early_units);
    return static_cast<int>((early ? 0 : early_ctas) + small_quotient(local, early ? per_cta : per_late));
  }
};

// All of the table that the cut alone says. The lane's matrix then lies, for each of its bits, row_of_bit bytes from
// row to row, and its first row first_of_bit bytes behind the matrix's.
struct OneMatrixPlace {
  unsigned row_of_bit, first_of_bit;

  __device__ __forceinline__ OneMatrixPlace(const StreamArgs& a, OneTable& t, const OneCut& cut) {
    const int lane = threadIdx.x & 31, hidden_blocks = a.layer.hidden / kBand;
    const bool down = cut.matrix == 2;
    const int row = down ? cut.band : cut.block, column = down ? cut.block : cut.band;
    // Hidden, or the compiler would do this where the experts are known.
    const int row_bytes = hidden(2 * (down ? a.layer.hidden : cut.slot_bands * kBand));
    row_of_bit = static_cast<unsigned>(row_bytes);
    first_of_bit = static_cast<unsigned>(hidden(row_bytes * row * kUnitRows + column * kRowBytesOfBit));
    if (cut.piece_count > 0 && cut.matrix == 0) {
      OnePiece& p = t.pieces[cut.piece];
      p.band = cut.band;
      p.slot = cut.slot;
      p.block = cut.block;
      p.item = cut.item;
      p.first_cta = cut.owner(cut.item * hidden_blocks);
      p.last_cta = cut.owner((cut.item + 1) * hidden_blocks - 1);
    }
    if (lane > 0) return;
    t.count = cut.count;
    t.pieces[0].first = 0;
    t.pieces[0].count = t.pieces[1].first = cut.first_count;
    t.pieces[1].count = cut.count - cut.first_count;
    t.items = cut.items;
    t.early_ctas = static_cast<int>(cut.early_ctas);
    t.working = cut.units == 0 ? 0 : cut.owner(cut.units - 1) + 1;
  }
  // A lane's matrix, if it has one.
  __device__ __forceinline__ void store(OneTable& t, const OneCut& cut, int expert, const unsigned char* words,
                                        int bits) const {
    if (cut.piece_count <= 0) return;
    OnePiece& p = t.pieces[cut.piece];
    p.words[cut.matrix] = words + static_cast<unsigned long long>(first_of_bit) * static_cast<unsigned>(bits);
    p.row_bytes[cut.matrix] = row_of_bit * static_cast<unsigned>(bits);
    p.bits[cut.matrix] = bits;
    p.expert = expert;
  }
};

// By a warp: how many bytes come to each barrier. bits: of the lane's matrix. Some may have come.
__device__ __forceinline__ void expect_one_run(OneShared& shared, const OneCut& cut, int bits) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int m = 0; m < 3; ++m) {
    const int own = __shfl_sync(kAllLanes, bits, m + (lane < cut.first_count ? 0 : 3));
    if (lane < cut.count) barrier_expect(&shared.full[m][lane], kUnitRows * kRowBytesOfBit * own);
  }
}

// A row of tiles of the first unit, if there is one, by a lane. All that it needs is read at once.
__device__ __forceinline__ void ask_for_first_unit(const OneMemory& m, int matrix, int row) {
  const OnePiece& p = m.shared.table.pieces[0];
  const int count = p.count, bytes = kRowBytesOfBit * p.bits[matrix];
  const unsigned char* const from = p.words[matrix] + std::size_t{p.row_bytes[matrix]} * static_cast<unsigned>(row);
  unsigned char* const to = m.stage(matrix, 0) + row * bytes;
  if (count > 0) bulk_load_once(to, from, bytes, &m.shared.full[matrix][0]);
}

// Where a matrix's part of a unit of the run comes from and goes to.
struct OneUnitRows {
  const unsigned char* from;
  unsigned char* to;
  unsigned from_step, bytes;  // from one row of tiles to the next, there and of the copy
  std::uint64_t* full;

  __device__ __forceinline__ OneUnitRows(const OneMemory& m, int matrix, int unit) {
    const OneTable& t = m.shared.table;
    const OnePiece& p = t.pieces[unit < t.pieces[1].first ? 0 : 1];
    const unsigned local = static_cast<unsigned>(unit - p.first);
    from_step = p.row_bytes[matrix];
    bytes = static_cast<unsigned>(kRowBytesOfBit * p.bits[matrix]);
    from = p.words[matrix];
    from += matrix < 2 ? std::size_t{from_step} * kUnitRows * local : std::size_t{bytes} * local;
    to = m.stage(matrix, unit);
    full = &m.shared.full[matrix][unit];
  }
  __device__ __forceinline__ void load() {
#pragma unroll
    for (int row = 0; row < kUnitRows; ++row, to += bytes, from += from_step) {
      bulk_load_once(to, from, static_cast<int>(bytes), full);
    }
  }
};

// Reads what the experts are, by a warp, so that it is in the L1 cache when the table is made.
__device__ inline void touch_experts(const StreamArgs& a, OneShared& shared) {
  constexpr int kBatch = 8, kSector = 32;
  const int lane = threadIdx.x & 31;
  const int sectors = static_cast<int>(sizeof(ExpertRef)) / kSector * (a.layer.routed + a.layer.shared);
  const auto* const words = reinterpret_cast<const int*>(a.layer.experts);
  int all = 0;
#pragma unroll 1
  for (int begin = lane; begin < sectors; begin += 32 * kBatch) {
    int one[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) one[i] = begin + 32 * i < sectors ? words[(begin + 32 * i) * (kSector / 4)] : 0;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) all ^= one[i];
  }
  shared.touched[lane] = all;  // so that they are read
}

}  // namespace fairway::kernels::cuda
