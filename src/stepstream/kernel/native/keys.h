// Keys of streams -> rows of a state table. Open addressing over (hash, row); the keys themselves lie by row.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace stepstream {

enum class KeyKind : uint8_t { none, text, bytes, integer };

struct Key {
    KeyKind kind = KeyKind::none;
    std::string_view data;
};

// Memory for tables that are read all over: in large pages, where the system has them, each look costs one miss less.
void* wide_memory(size_t bytes);  // throws std::bad_alloc; std::free gives it back

template <class T>
struct Wide {
    using value_type = T;
    Wide() = default;
    template <class U>
    Wide(const Wide<U>&) {}
    T* allocate(size_t n) { return (T*)wide_memory(n * sizeof(T)); }
    void deallocate(T* p, size_t) { std::free(p); }
    bool operator==(const Wide&) const { return true; }
    bool operator!=(const Wide&) const { return false; }
};

class KeyTable {
  public:
    // seed: 16 secret bytes. Whoever chooses keys must not be able to choose their hashes: SipHash-1-3 (Aumasson and
    // Bernstein 2012).
    KeyTable(uint64_t seed0, uint64_t seed1);

    uint64_t hash(const Key& key) const;
    void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_]); }
    // the key's entry, which is the next thing that `find` needs
    void prefetch_entry(uint64_t hash) const;
    int64_t find(const Key& key, uint64_t hash) const;      // row, or -1
    int64_t insert(const Key& key, uint64_t hash);          // row, old or new; throws std::bad_alloc
    int64_t remove(const Key& key, uint64_t hash);          // the row that is free now, or -1
    int64_t size() const { return size_; }
    int64_t rows() const { return entries_.size(); }  // rows ever used: all rows are below
    Key key(int64_t row) const { return {entries_[row].kind(), entries_[row].data}; }  // kind none: a free row

  private:
    struct Slot {
        uint32_t tag = 0;   // upper half of the hash
        int32_t row = -1;   // -1: empty
    };
    struct Entry {
        uint64_t mixed = 0;  // the kind in the two upper bits, which no mask reaches, and the rest of the hash
        std::string data;
        KeyKind kind() const { return (KeyKind)(mixed >> 62); }
        void set(KeyKind kind, uint64_t hash) { mixed = (uint64_t)kind << 62 | (hash & ((uint64_t)1 << 62) - 1); }
    };
    // A vector that never moves what it holds, so that growing takes neither a copy nor twice the memory.
    class Entries {
      public:
        Entries() = default;
        Entries(const Entries&) = delete;
        Entries& operator=(const Entries&) = delete;
        ~Entries();
        int64_t size() const { return size_; }
        Entry& operator[](int64_t i) { return blocks_[i >> BITS][i & MASK]; }
        const Entry& operator[](int64_t i) const { return blocks_[i >> BITS][i & MASK]; }
        void add();  // an empty one; throws std::bad_alloc

      private:
        static constexpr int64_t BITS = 18, MASK = ((int64_t)1 << BITS) - 1;
        std::vector<Entry*> blocks_;
        int64_t size_ = 0;
    };
    uint64_t slot_of(const Key& key, uint64_t hash) const;  // where it is, or the empty slot where it would be
    void grow();

    uint64_t seed0_, seed1_, mask_;
    int64_t size_ = 0;
    std::vector<Slot, Wide<Slot>> slots_;
    Entries entries_;
    std::vector<int32_t> free_;
};

}  // namespace stepstream
