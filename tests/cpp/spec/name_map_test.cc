#include "spec/name_map.h"

#include <string>

#include "core/refusal.h"
#include "gtest/gtest.h"
#include "spec/families/table.h"

namespace quire {
namespace {

ModelSpec tiny() {
  ModelSpec spec;
  spec.layers.resize(1);
  return spec;
}

TEST(NameMap, fills_in_prefixes_and_numbers) {
  const NamePrefix prefix{.body = "language_model.model.", .root = "language_model."};
  EXPECT_EQ(expand_name("{body}h.{i}.ln_1", {.prefix = {"transformer."}, .layer = 12}), "transformer.h.12.ln_1");
  EXPECT_EQ(expand_name("{root}lm_head", {.prefix = {"model."}}), "lm_head");
  EXPECT_EQ(expand_name("{root}lm_head", {.prefix = prefix}), "language_model.lm_head");
  EXPECT_EQ(expand_name("{body}layers.{i}.experts.{e}.w1", {.prefix = prefix, .layer = 3, .expert = 11}),
            "language_model.model.layers.3.experts.11.w1");
  EXPECT_EQ(expand_name("norms.{h}", {.head = 7}), "norms.7");
  EXPECT_EQ(expand_name("layers.{extra}.*", {.extra_layer = 61}), "layers.61.*");
}

TEST(NameMap, patterns_match_whole_names) {
  EXPECT_TRUE(matches_pattern("*.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(matches_pattern("*.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq2"));
  EXPECT_TRUE(matches_pattern("a*b*c", "aXbXbc"));
  EXPECT_FALSE(matches_pattern("a*b*c", "aXcXb"));
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_FALSE(matches_pattern("", "a"));
  EXPECT_TRUE(matches_pattern("", ""));
  // Backtracking over every '*' would take for ever here.
  EXPECT_FALSE(matches_pattern("*a*a*a*a*a*a*a*a*a*a*a*b", std::string(5'000, 'a')));
}

TEST(NameMap, a_module_that_a_family_does_not_name_is_a_bug_of_ours) {
  EXPECT_EQ(refusal_of([] { family_named("gpt2").names(tiny()).rule("attention.q_norm"); }).kind, ErrorKind::kInternal);
  EXPECT_EQ(refusal_of([] { family_named("no such"); }).kind, ErrorKind::kInternal);
}

TEST(NameMap, every_family_names_the_modules_that_all_models_have) {
  for (const Family& row : family_table()) {
    const NameMap map = row.names(tiny());
    for (const char* module :
         {"embedding", "attention_norm", "attention.qkv", "attention.out", "ffn_norm", "final_norm", "head"}) {
      EXPECT_FALSE(map.rule(module).sources.empty()) << row.name << " " << module;
    }
    EXPECT_FALSE(map.prefixes.empty());
  }
}

}  // namespace
}  // namespace quire
