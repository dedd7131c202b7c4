// The smallest program that embeds quire: a model folder and token ids in, text out.
#include <quire/quire.h>

#include <cstdlib>
#include <iostream>

int main(int argc, char** argv) {
  quire::Request request{.prompt_token_ids = {}, .sampling = {.temperature = 0.0f, .max_tokens = 40}};
  for (int i = 2; i < argc; ++i) request.prompt_token_ids.push_back(std::atoi(argv[i]));

  const auto engine = quire::Engine::create({.model = argv[1]});
  const auto outputs = quire::OutputQueue::create();
  engine->submit(request, outputs->callback());
  std::cout << outputs->take().at(0).sequences.at(0).text << '\n';
}
