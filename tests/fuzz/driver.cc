// Drives a fuzz target where there is no libFuzzer: every file of a corpus as it is and cut short, then seeded
// mutations of them until the time is over. Deterministic but for how far it gets.   usage: fuzz_NAME CORPUS [SECONDS
// [SEED]]
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void Try(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

class Mutator {
 public:
  Mutator(const std::vector<std::string>& corpus, uint64_t seed) : corpus_(corpus), random_(seed) {}

  std::string Next() {
    std::string input = Pick();
    for (size_t count = 1 + Below(6); count > 0; --count) Mutate(&input);
    return input.substr(0, 1 << 16);
  }

 private:
  size_t Below(size_t limit) { return limit == 0 ? 0 : static_cast<size_t>(random_() % limit); }
  const std::string& Pick() { return corpus_[Below(corpus_.size())]; }

  void Mutate(std::string* input) {
    const size_t at = Below(input->size() + 1), length = Below(std::min<size_t>(input->size() - at, 64) + 1);
    switch (Below(8)) {
      case 0:
        if (at < input->size()) (*input)[at] = static_cast<char>(random_());
        break;
      case 1:
        if (at < input->size()) (*input)[at] = static_cast<char>((*input)[at] ^ (1 << Below(8)));
        break;
      case 2:
        input->erase(at, length);
        break;
      case 3:
        input->insert(at, input->substr(Below(input->size() + 1), length));
        break;
      case 4: {  // a number that sizes break at, little-endian
        static constexpr uint64_t kNumbers[] = {
            0,           1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, uint64_t{1} << 62, uint64_t{1} << 63,
            ~uint64_t{0}};
        const uint64_t number = kNumbers[Below(std::size(kNumbers))];
        for (size_t i = 0; i < 8 && at + i < input->size(); ++i)
          (*input)[at + i] = static_cast<char>(number >> (8 * i));
        break;
      }
      case 5: {  // a part of another file
        const std::string& other = Pick();
        const size_t from = Below(other.size() + 1);
        input->insert(at, other.substr(from, Below(200)));
        break;
      }
      case 6:
        for (size_t count = Below(40); count > 0; --count)
          input->insert(at, input->substr(at, std::min<size_t>(length, 8)));
        break;
      default:
        input->resize(at);
    }
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS [SECONDS [SEED]]\n", argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<std::string> corpus;
  for (const auto& path : files) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "%s holds no files\n", argv[1]);
    return 2;
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(argc > 2 ? std::atoi(argv[2]) : 5);
  const uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1;
  size_t runs = 0;
  for (const std::string& input : corpus) {
    Try(input);
    for (size_t step = input.size() / 64 + 1, bytes = 0; bytes < input.size(); bytes += step, ++runs)
      Try(input.substr(0, bytes));
  }
  for (Mutator mutator(corpus, seed); std::chrono::steady_clock::now() < end; ++runs) Try(mutator.Next());
  std::printf("%zu inputs from %zu files\n", runs, corpus.size());
}
