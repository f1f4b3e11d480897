// Keys of streams -> rows of a state table. Open addressing over (hash, row); the keys themselves lie by row.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stepstream {

enum class KeyKind : uint8_t { none, text, bytes, integer };

struct Key {
    KeyKind kind = KeyKind::none;
    std::string_view data;
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
    int64_t rows() const { return (int64_t)entries_.size(); }  // rows ever used: all rows are below
    Key key(int64_t row) const { return {entries_[row].kind, entries_[row].data}; }  // kind none: a free row

  private:
    struct Slot {
        uint32_t tag = 0;   // upper half of the hash
        int32_t row = -1;   // -1: empty
    };
    struct Entry {
        KeyKind kind = KeyKind::none;
        uint64_t hash = 0;
        std::string data;
    };
    uint64_t slot_of(const Key& key, uint64_t hash) const;  // where it is, or the empty slot where it would be
    void grow();

    uint64_t seed0_, seed1_, mask_;
    int64_t size_ = 0;
    std::vector<Slot> slots_;
    std::vector<Entry> entries_;
    std::vector<int32_t> free_;
};

}  // namespace stepstream
