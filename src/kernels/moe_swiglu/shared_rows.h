// Which prepared rows of a batch are the same: a token that goes to several experts is prepared once if they read it in
// one form, and copied to the others.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/workspace.h"
#include "kernels/trellis_band/trellis_band.h"

namespace fairway::kernels {

// How an expert reads a token: how its blocks are stored, and the input scales of gate and of up, by their address. A
// checkpoint keeps equal scales once. Without `store` the form is like no other.
struct InputForm {
  void (*store)(const float* x, std::uint8_t* row, int in, int block) = nullptr;
  const float* gate_scale = nullptr;
  const float* up_scale = nullptr;
  int in = 0;

  bool operator==(const InputForm& other) const {
    return store != nullptr && store == other.store && gate_scale == other.gate_scale && up_scale == other.up_scale &&
           in == other.in;
  }
};

// The rows of a batch as lists: each list begins with a row that is prepared, and its others are copies of that one.
class SharedRows {
 public:
  static constexpr std::int32_t kEnd = -1;

  // For rows 0..rows-1 of tokens 0..tokens-1. Valid as long as the workspace's scope.
  SharedRows(backend::Workspace& workspace, std::int64_t rows, std::int64_t tokens)
      : first_(workspace.alloc<List>(static_cast<std::size_t>(rows))),
        next_copy_(workspace.alloc<std::int32_t>(static_cast<std::size_t>(rows))),
        newest_(workspace.alloc<std::int32_t>(static_cast<std::size_t>(tokens))) {
    std::fill_n(newest_, tokens, kEnd);
  }

  // To be called once for every row.
  void add(std::int32_t row, std::int32_t token, const InputForm& form) {
    for (std::int32_t list = newest_[token]; list != kEnd; list = first_[list].older) {
      if (!(*first_[list].form == form)) continue;
      next_copy_[row] = next_copy_[first_[list].row];
      next_copy_[first_[list].row] = row;
      return;
    }
    next_copy_[row] = kEnd;
    first_[count_] = {row, newest_[token], &form};
    newest_[token] = count_++;
  }

  std::int32_t count() const { return count_; }  // rows to prepare
  std::int32_t row(std::int64_t list) const { return first_[list].row; }
  std::int32_t next_copy(std::int32_t row) const { return next_copy_[row]; }  // kEnd: none

 private:
  struct List {
    std::int32_t row, older;  // older: the list of another form of the same token
    const InputForm* form;
  };

  List* first_;
  std::int32_t* next_copy_;
  std::int32_t* newest_;  // by token
  std::int32_t count_ = 0;
};

}  // namespace fairway::kernels
