// Scratch memory for one forward pass: a stack of 64-byte aligned blocks that grows once and is then reused.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

namespace fairway::backend {

// Not thread-safe: only the thread that drives the forward pass allocates, before it starts parallel work.
class Workspace {
 public:
  // Everything allocated after construction is given back when the scope ends.
  class Scope {
   public:
    explicit Scope(Workspace& ws) : ws_(ws), block_(ws.block_), used_(ws.used_) {}
    ~Scope() {
      ws_.block_ = block_;
      ws_.used_ = used_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& ws_;
    std::size_t block_, used_;
  };

  // Uninitialised storage for count elements, 64-byte aligned, valid until the enclosing Scope ends.
  // Error(kResource) with the size if the machine cannot have that much memory.
  template <class T>
  T* alloc(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>);
    return static_cast<T*>(alloc_bytes(count, sizeof(T)));
  }

  std::size_t reserved_bytes() const;

 private:
  struct FreeDeleter {
    void operator()(std::byte* p) const;
  };
  struct Block {
    std::unique_ptr<std::byte, FreeDeleter> data;
    std::size_t size;
  };
  void* alloc_bytes(std::size_t count, std::size_t element_bytes);
  bool advance_to_block(std::size_t bytes);

  std::vector<Block> blocks_;
  std::size_t block_ = 0;  // index of the block in use
  std::size_t used_ = 0;   // bytes used in it
};

}  // namespace fairway::backend
