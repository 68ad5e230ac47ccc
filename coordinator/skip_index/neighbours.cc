#include "coordinator/skip_index/neighbours.h"

#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <cmath>

#include "common/check.h"

namespace interlace {
namespace {

// Links of a key in the graph, and how many keys a look-up and an insertion keep in view.
constexpr size_t kLinks = 16, kBuildView = 100, kView = 64;
// The library locks places that change by one of so many mutexes, whatever the number of keys.
constexpr int64_t kGraphBytes = int64_t{65536} * sizeof(std::mutex);
constexpr int64_t kTableBytes = 48;  // of id and place

}  // namespace

// hnswlib gives its places in order, so ours are the same, and its labels.
struct Neighbours::Graph {
  Graph(int32_t width, size_t room) : space(width), keys(&space, room, kLinks, kBuildView) { keys.ef_ = kView; }
  hnswlib::InnerProductSpace space;
  hnswlib::HierarchicalNSW<float> keys;
};

Neighbours::Neighbours(int32_t width) : width_(width) {}
Neighbours::~Neighbours() = default;

const float* Neighbours::RowOf(size_t place) const {
  if (graph_ == nullptr) return rows_.data() + place * static_cast<size_t>(width_);
  return reinterpret_cast<const float*>(graph_->keys.getDataByInternalId(static_cast<hnswlib::tableint>(place)));
}

absl::Span<const float> Neighbours::KeyOf(uint64_t id) const {
  return {RowOf(places_.at(id)), static_cast<size_t>(width_)};
}

void Neighbours::BecomeGraph() {
  graph_ = std::make_unique<Graph>(width_, 2 * ids_.size());
  for (size_t place = 0; place < ids_.size(); ++place) {
    graph_->keys.addPoint(rows_.data() + place * static_cast<size_t>(width_), place);
  }
  rows_ = {};
}

void Neighbours::Put(uint64_t id, absl::Span<const float> key) {
  CHECK(key.size() == static_cast<size_t>(width_) && !Has(id) && id != kNobody);
  if (graph_ == nullptr && ids_.size() == kFlat) BecomeGraph();
  size_t place = ids_.size();
  if (free_.empty()) {
    ids_.push_back(id);
  } else {
    place = free_.back();
    free_.pop_back();
    ids_[place] = id;
  }
  places_.emplace(id, place);
  if (graph_ == nullptr) {
    rows_.insert(rows_.end(), key.begin(), key.end());
    return;
  }
  if (place == graph_->keys.max_elements_) graph_->keys.resizeIndex(2 * place);
  graph_->keys.addPoint(key.data(), place);  // a place that was marked is taken anew
}

void Neighbours::Remove(uint64_t id) {
  const auto it = places_.find(id);
  CHECK(it != places_.end());
  const size_t place = it->second;
  places_.erase(it);
  if (graph_ == nullptr) return RemoveRow(place);
  graph_->keys.markDelete(place);
  ids_[place] = kNobody;
  free_.push_back(place);
  if (2 * free_.size() > ids_.size()) Rebuild();
}

// The last row takes its place.
void Neighbours::RemoveRow(size_t place) {
  const size_t last = ids_.size() - 1, width = static_cast<size_t>(width_);
  if (place != last) {
    std::copy_n(rows_.begin() + static_cast<ptrdiff_t>(last * width), width,
                rows_.begin() + static_cast<ptrdiff_t>(place * width));
    ids_[place] = ids_[last];
    places_[ids_[place]] = place;
  }
  ids_.pop_back();
  rows_.resize(last * width);
  if (rows_.capacity() > 4 * rows_.size()) rows_.shrink_to_fit();
}

// Without the empty places.
void Neighbours::Rebuild() {
  std::vector<float> rows;
  std::vector<uint64_t> ids;
  for (size_t place = 0; place < ids_.size(); ++place) {
    if (ids_[place] == kNobody) continue;
    places_[ids_[place]] = ids.size();
    ids.push_back(ids_[place]);
    rows.insert(rows.end(), RowOf(place), RowOf(place) + width_);
  }
  graph_.reset();
  free_.clear();
  rows_ = std::move(rows);
  ids_ = std::move(ids);
  if (ids_.size() > kFlat) BecomeGraph();
}

std::vector<Neighbour> Neighbours::Nearest(absl::Span<const float> key, int32_t most) const {
  CHECK(key.size() == static_cast<size_t>(width_));
  std::vector<Neighbour> nearest;
  const auto closer = [](const Neighbour& a, const Neighbour& b) {
    return a.similarity > b.similarity || (a.similarity == b.similarity && a.id < b.id);
  };
  if (graph_ != nullptr) {
    auto found = graph_->keys.searchKnn(key.data(), static_cast<size_t>(most));
    for (; !found.empty(); found.pop()) nearest.push_back({ids_[found.top().second], 1 - found.top().first});
    std::sort(nearest.begin(), nearest.end(), closer);
    return nearest;
  }
  for (size_t place = 0; place < ids_.size(); ++place) {
    nearest.push_back({ids_[place], Dot(key, {RowOf(place), static_cast<size_t>(width_)})});
  }
  const auto end = nearest.begin() + std::min<ptrdiff_t>(most, static_cast<ptrdiff_t>(nearest.size()));
  std::partial_sort(nearest.begin(), end, nearest.end(), closer);
  nearest.erase(end, nearest.end());
  return nearest;
}

int64_t Neighbours::bytes() const {
  const auto keys = static_cast<int64_t>(size());
  if (graph_ == nullptr) return keys * (width_ * int64_t{sizeof(float)} + kTableBytes);
  // Links on higher levels: one place in kLinks has some. Locks, levels and marks are there for all the room.
  const auto higher = static_cast<int64_t>(graph_->keys.size_links_per_element_ / (kLinks - 1));
  const auto key = static_cast<int64_t>(graph_->keys.size_data_per_element_) + higher + 2 * kTableBytes;
  const int64_t room = sizeof(std::mutex) + sizeof(int) + sizeof(void*) + sizeof(hnswlib::vl_type);
  return keys * (key + 2 * room) + kGraphBytes;
}

bool Normalise(std::vector<float>* key) {
  double length = 0;
  for (const float x : *key) length += double{x} * x;
  if (!std::isfinite(length) || length < 1e-30) return false;
  const double scale = 1 / std::sqrt(length);
  for (float& x : *key) x = static_cast<float>(x * scale);
  return true;
}

float Dot(absl::Span<const float> a, absl::Span<const float> b) {
  CHECK(a.size() == b.size());
  const size_t width = a.size();
  constexpr size_t kLanes = 16;  // so many sums side by side, which compilers make vectors of
  float sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  float sum = 0;
  for (; i < width; ++i) sum += a[i] * b[i];
  for (const float lane : sums) sum += lane;
  return sum;
}

}  // namespace interlace
