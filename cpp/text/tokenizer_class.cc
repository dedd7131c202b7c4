#include "text/tokenizer_class.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <string>

namespace quire {
namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr int kNumQwenExtras = 205;
constexpr int kNumArcadeRegisters = 8;
constexpr size_t kUnusedInCl100k = 15;

/// "<|extra_0|>", "<|extra_1|>" and so on.
void add_numbered(std::vector<std::string>& names, const std::string& stem, int count) {
  for (int i = 0; i < count; ++i) names.push_back("<|" + stem + std::to_string(i) + "|>");
}

// The tokens of each class in order of their ids; an empty name leaves an id out. pyapi/quire/tokenizer_classes.py
// holds the same for encoding.

/// Source: Qwen/Qwen-7B:tokenization_qwen.py.
std::vector<std::string> qwen() {
  std::vector<std::string> names = {std::string(kEndOfText), "<|im_start|>", "<|im_end|>"};
  add_numbered(names, "extra_", kNumQwenExtras);
  return names;
}

/// Source: stabilityai/stablelm-2-1_6b:tokenization_arcade100k.py.
std::vector<std::string> arcade100k() {
  std::vector<std::string> names = {"",
                                    std::string(kEndOfText),
                                    "<|fim_prefix|>",
                                    "<|fim_middle|>",
                                    "<|fim_suffix|>",
                                    "<|fim_pad|>",
                                    "<gh_stars>",
                                    "<filename>",
                                    "<issue_start>",
                                    "<issue_comment>",
                                    "<issue_closed>",
                                    "<jupyter_start>",
                                    "<jupyter_text>",
                                    "<jupyter_code>",
                                    "<jupyter_output>",
                                    "<empty_output>",
                                    "<commit_before>",
                                    "<commit_msg>",
                                    "<commit_after>",
                                    "<reponame>",
                                    "<|endofprompt|>",
                                    "<|im_start|>",
                                    "<|im_end|>",
                                    "<|pause|>"};
  add_numbered(names, "reg", kNumArcadeRegisters);
  names.emplace_back("<|extra0|>");
  return names;
}

/// DBRX, over OpenAI's cl100k_base. Source: databricks/dbrx-base:tiktoken.py.
std::vector<std::string> dbrx() {
  std::vector<std::string> names = {"", std::string(kEndOfText), "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"};
  names.resize(names.size() + kUnusedInCl100k);
  names.insert(names.end(), {"<|endofprompt|>", "<|pad|>", "<|im_start|>", "<|im_end|>"});
  return names;
}

/// Source: THUDM/glm-4-9b:tokenization_chatglm.py.
std::vector<std::string> glm4() {
  return {std::string(kEndOfText),
          "[MASK]",
          "[gMASK]",
          "[sMASK]",
          "<sop>",
          "<eop>",
          "<|system|>",
          "<|user|>",
          "<|assistant|>",
          "<|observation|>",
          "<|begin_of_image|>",
          "<|end_of_image|>",
          "<|begin_of_video|>",
          "<|end_of_video|>"};
}

/// ChatGLM 2 has the same without the last four. Source: THUDM/chatglm3-6b:tokenization_chatglm.py.
std::vector<std::string> chatglm() {
  return {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"};
}

struct TokenizerClass {
  std::string_view name;
  std::string_view file;
  std::vector<std::string> (*appended)();
};

constexpr TokenizerClass kClasses[] = {
    {"QWenTokenizer", "qwen.tiktoken", qwen},
    {"Arcade100kTokenizer", "arcade100k.tiktoken", arcade100k},
    {"TiktokenTokenizerWrapper", "cl100k_base.tiktoken", dbrx},
    {"ChatGLM4Tokenizer", "", glm4},
    {"ChatGLMTokenizer", "", chatglm},
};

const TokenizerClass* find_class(std::string_view name) {
  const auto* found = std::ranges::find(kClasses, name, &TokenizerClass::name);
  return found == std::end(kClasses) ? nullptr : found;
}

}  // namespace

std::vector<AddedToken> all_added_tokens(const TokenizerSettings& settings, int64_t first_id) {
  std::vector<AddedToken> tokens = settings.added;
  const TokenizerClass* tokenizer_class = find_class(settings.tokenizer_class);
  if (tokenizer_class == nullptr) return tokens;
  std::set<int64_t> ids;
  std::set<std::string_view> contents;
  for (const AddedToken& token : settings.added) {
    ids.insert(token.id);
    contents.insert(token.content);
  }
  int64_t id = first_id;
  for (std::string& name : tokenizer_class->appended()) {
    const bool listed = ids.contains(id) || contents.contains(name);
    if (!name.empty() && !listed) tokens.push_back({.id = id, .content = std::move(name), .special = true});
    ++id;
  }
  return tokens;
}

std::string_view vocabulary_file(std::string_view tokenizer_class) {
  const TokenizerClass* found = find_class(tokenizer_class);
  return found == nullptr ? std::string_view() : found->file;
}

}  // namespace quire
