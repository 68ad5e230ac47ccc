// asks ADDRESS PROMPT: prints 8 tokens of a greedy answer.
#include <interlace/client.h>

#include <iostream>

int main(int, char** argv) {
  const auto client = interlace::Client::Connect(argv[1]);
  interlace::ClientOptions options;
  options.temperature = 0;
  options.max_tokens = 8;
  const auto result = client->Generate(argv[2], options, [](absl::string_view text) {
    std::cout << text << std::flush;
    return true;
  });
  if (!result.ok()) std::cerr << result.status() << "\n";
  return result.ok() ? 0 : 1;
}
