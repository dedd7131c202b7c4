#include "spec/hf_fields.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

namespace quire {
namespace {

constexpr int32_t kDefaultPositions = 2048;
constexpr Range<double> kFactors{1.0, 1e6};
constexpr Range<double> kPositive{1e-6, 1e6};
constexpr Range<double> kMagnitudes{0.0, 1e6};

constexpr std::array<std::pair<std::string_view, Ffn::Act>, 13> kActivations = {{
    {"silu", Ffn::Act::kSilu},
    {"swish", Ffn::Act::kSilu},
    {"gelu", Ffn::Act::kGelu},
    {"gelu_python", Ffn::Act::kGelu},
    // One formula under many names: they differ in the order of operations only.
    {"gelu_new", Ffn::Act::kGeluTanh},
    {"gelu_fast", Ffn::Act::kGeluTanh},
    {"gelu_accurate", Ffn::Act::kGeluTanh},
    {"gelu_pytorch_tanh", Ffn::Act::kGeluTanh},
    {"gelu_python_tanh", Ffn::Act::kGeluTanh},
    {"quick_gelu", Ffn::Act::kGeluQuick},
    {"relu", Ffn::Act::kRelu},
    {"relu2", Ffn::Act::kRelu2},
    {"relu_squared", Ffn::Act::kRelu2},
}};

template <typename Table>
std::string names_of(const Table& table) {
  std::string names;
  for (const auto& [name, value] : table) {
    if (!names.empty()) names += ", ";
    names += name;
  }
  return names;
}

constexpr std::array<std::pair<std::string_view, RopeScaling::Kind>, 7> kScalings = {{
    {"default", RopeScaling::Kind::kNone},
    {"linear", RopeScaling::Kind::kLinear},
    {"dynamic", RopeScaling::Kind::kDynamic},
    {"llama3", RopeScaling::Kind::kLlama3},
    {"yarn", RopeScaling::Kind::kYarn},
    {"longrope", RopeScaling::Kind::kLongRope},
    {"su", RopeScaling::Kind::kLongRope},  // longrope's name in the first Phi-3 folders
}};

/// What the kind of scaling has been called, newest first.
FieldNames kind_fields() {
  return {"rope_type", "type"};
}

RopeScaling::Kind scaling_kind(const HfConfig& fields) {
  const std::string name = fields.string_or(kind_fields(), "default");
  for (const auto& [known, kind] : kScalings) {
    if (known == name) return kind;
  }
  fields.refuse(ErrorKind::kUnsupported, kind_fields(), "unknown kind of rope scaling", names_of(kScalings));
}

/// Length that the model was trained with before scaling. A top-level field (Phi-3) goes before one among the rope's
/// own; without either it is the length of today.
int32_t original_length(const HfConfig& config, const HfConfig& fields) {
  constexpr const char* kField = "original_max_position_embeddings";
  if (config.has(kField)) return config.integer(kField, kPositionCounts);
  if (fields.has(kField)) return fields.integer(kField, kPositionCounts);
  return config.integer("max_position_embeddings", kPositionCounts);
}

void read_llama3(const HfConfig& fields, RopeScaling& scaling) {
  scaling.low_freq_factor = fields.number("low_freq_factor", kPositive);
  scaling.high_freq_factor = fields.number("high_freq_factor", kPositive);
  if (scaling.low_freq_factor >= scaling.high_freq_factor) {
    fields.refuse(ErrorKind::kInvalidArgument, "low_freq_factor", "out of range", "less than high_freq_factor");
  }
}

void read_yarn(const HfConfig& fields, RopeScaling& scaling) {
  // Zero stands for the default in these, as in transformers.
  const auto or_default = [](double value, double fallback) { return value == 0 ? fallback : value; };
  scaling.beta_fast = or_default(fields.number_or("beta_fast", 0, kMagnitudes), 32.0);
  scaling.beta_slow = or_default(fields.number_or("beta_slow", 0, kMagnitudes), 1.0);
  scaling.truncate = fields.boolean_or("truncate", true);
  scaling.mscale = fields.number_or("mscale", 0, kMagnitudes);
  scaling.mscale_all_dim = fields.number_or("mscale_all_dim", 0, kMagnitudes);
}

RopeScaling rope_scaling(const HfConfig& config, const HfConfig& fields, int32_t dim) {
  using Kind = RopeScaling::Kind;
  RopeScaling scaling;
  scaling.kind = scaling_kind(fields);
  if (scaling.kind == Kind::kNone) return scaling;

  // Dynamic scaling starts at the length of today, whatever the original was.
  scaling.original_max_positions = scaling.kind == Kind::kDynamic
                                       ? config.integer("max_position_embeddings", kPositionCounts)
                                       : original_length(config, fields);
  const bool factor_from_lengths = scaling.kind == Kind::kYarn || scaling.kind == Kind::kLongRope;
  if (factor_from_lengths && !fields.has("factor")) {
    scaling.factor = static_cast<double>(config.integer("max_position_embeddings", kPositionCounts)) /
                     scaling.original_max_positions;
  } else {
    scaling.factor = fields.number("factor", kFactors);
  }
  if (factor_from_lengths) scaling.attention_factor = fields.number_or("attention_factor", -1.0, kMagnitudes);
  if (scaling.kind == Kind::kLlama3) read_llama3(fields, scaling);
  if (scaling.kind == Kind::kYarn) read_yarn(fields, scaling);
  if (scaling.kind == Kind::kLongRope) {
    if (scaling.original_max_positions < 2) {  // its logarithm is divided by
      fields.refuse(ErrorKind::kInvalidArgument, "original_max_position_embeddings", "out of range", "2 or more");
    }
    scaling.short_factors = fields.numbers("short_factor", dim / 2, kPositive);
    scaling.long_factors = fields.numbers("long_factor", dim / 2, kPositive);
  }
  if (scaling.kind == Kind::kDynamic && dim == 2) {  // dim - 2 is divided by
    fields.refuse(ErrorKind::kInvalidArgument, kind_fields(), "rotary dimension too small",
                  "4 or more for this kind of scaling");
  }
  return scaling;
}

}  // namespace

int32_t even_head_dim(const HfConfig& config, int32_t width, const FieldNames& heads) {
  const int32_t count = config.integer(heads, kHeadCounts);
  if (width % count != 0) {
    config.refuse(ErrorKind::kInvalidArgument, heads, "out of range",
                  "a divisor of the hidden size, " + std::to_string(width));
  }
  return width / count;
}

Attention attention_shape(const HfConfig& config, int32_t width, const FieldNames& heads, const FieldNames& kv_heads) {
  Attention attention;
  attention.heads = config.integer(heads, kHeadCounts);
  attention.kv_heads = config.integer_or(kv_heads, attention.heads, kHeadCounts);
  if (attention.heads % attention.kv_heads != 0) {
    config.refuse(ErrorKind::kInvalidArgument, kv_heads, "out of range",
                  "a divisor of the number of attention heads, " + std::to_string(attention.heads));
  }
  attention.head_dim =
      config.has("head_dim") ? config.integer("head_dim", kHeadDims) : even_head_dim(config, width, heads);
  return attention;
}

Ffn::Act activation(const HfConfig& config, const FieldNames& names, std::string_view fallback) {
  const std::string name = config.string_or(names, fallback);
  for (const auto& [known, act] : kActivations) {
    if (known == name) return act;
  }
  config.refuse(ErrorKind::kUnsupported, names, "unknown activation", names_of(kActivations));
}

Rope rope(const HfConfig& config, int32_t head_dim, const RopeDefaults& defaults) {
  const char* const section_name = config.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  std::optional<HfConfig> section = config.section(section_name);
  if (section && section->has_sections()) {
    if (defaults.layer_type.empty()) {
      config.refuse(ErrorKind::kUnsupported, section_name, "rope parameters per layer type",
                    "one set of parameters for all layers");
    }
    section = section->section(defaults.layer_type);
  }
  const auto field = [&](const FieldNames& names, double fallback, Range<double> range) {
    const double top_level = config.number_or(names, fallback, range);
    return section ? section->number_or(names, top_level, range) : top_level;
  };
  Rope rope;
  rope.base = field({"rope_theta", "rotary_emb_base"}, defaults.base, kRopeBases);
  rope.dim = static_cast<int32_t>(
      head_dim * field({"partial_rotary_factor", "rotary_pct", "rope_pct"}, defaults.rotated, {0.0, 1.0}));
  if (rope.dim < 2 || rope.dim % 2 != 0) {
    config.refuse(ErrorKind::kInvalidArgument, "head_dim", "rotary dimension " + std::to_string(rope.dim),
                  "an even number of rotated components");
  }
  if (section) rope.scaling = rope_scaling(config, *section, rope.dim);
  return rope;
}

Norm rms_norm(const HfConfig& config, const FieldNames& eps, double fallback) {
  return {.eps = static_cast<float>(config.number_or(eps, fallback, kNormEps))};
}

Norm layer_norm(const HfConfig& config, const FieldNames& eps, double fallback) {
  return {
      .kind = Norm::Kind::kLayer, .eps = static_cast<float>(config.number_or(eps, fallback, kNormEps)), .bias = true};
}

std::vector<bool> sliding_layers(const HfConfig& config, size_t num_layers, int32_t pattern) {
  std::vector<bool> slides;
  const std::vector<std::string> types = config.strings("layer_types");
  for (const std::string& type : types) {
    if (type != "sliding_attention" && type != "full_attention") {
      config.refuse(ErrorKind::kUnsupported, "layer_types", "unknown kind of layer '" + type + "'",
                    "sliding_attention or full_attention");
    }
    slides.push_back(type == "sliding_attention");
  }
  if (!slides.empty() && slides.size() != num_layers) {
    config.refuse(ErrorKind::kInvalidArgument, "layer_types", "wrong length " + std::to_string(slides.size()),
                  "one for each of " + std::to_string(num_layers) + " layers");
  }
  if (slides.empty() && pattern > 0) {
    for (size_t i = 0; i < num_layers; ++i) slides.push_back((i + 1) % static_cast<size_t>(pattern) != 0);
  }
  return slides;
}

int32_t sliding_window(const HfConfig& config, int32_t fallback) {
  if (config.is_null("sliding_window")) return 0;
  return config.has("sliding_window") ? config.integer("sliding_window", kPositionCounts) : fallback;
}

Moe experts(const HfConfig& config, const FieldNames& num_experts, const FieldNames& top_k) {
  Moe moe;
  moe.num_experts = config.integer(num_experts, kExpertCounts);
  moe.top_k = config.integer(top_k, kExpertCounts);
  if (moe.top_k > moe.num_experts) {
    config.refuse(ErrorKind::kInvalidArgument, top_k, "out of range",
                  "at most the number of experts, " + std::to_string(moe.num_experts));
  }
  return moe;
}

void require_string(const HfConfig& config, const FieldNames& names, std::string_view supported) {
  if (config.string_or(names, supported) == supported) return;
  config.refuse(ErrorKind::kUnsupported, names, "not built in for this family", supported);
}

void require_boolean(const HfConfig& config, const FieldNames& names, bool supported) {
  if (config.boolean_or(names, supported) == supported) return;
  config.refuse(ErrorKind::kUnsupported, names, "not built in for this family", supported ? "true" : "false");
}

int32_t max_positions(const HfConfig& config, const Positions& positions) {
  constexpr std::array kFields = {
      "max_position_embeddings", "n_positions",    "max_seq_len",     "seq_length", "seq_len",
      "max_sequence_length",     "max_seq_length", "model_max_length"};
  // A table of learned positions has as many rows as it has, whatever else the config says.
  constexpr int32_t kUnknown = std::numeric_limits<int32_t>::max();
  const auto* learned = std::get_if<LearnedPositions>(&positions);
  int32_t length = learned == nullptr ? kUnknown : learned->num_positions;
  for (const char* field : kFields) {
    if (config.has(field)) length = std::min(length, config.integer(field, kPositionCounts));
  }
  if (length == kUnknown) length = kDefaultPositions;

  const Rope* rope = std::get_if<Rope>(&positions);
  if (rope == nullptr) return length;
  double scaled = length;
  switch (rope->scaling.kind) {
    case RopeScaling::Kind::kLinear:
    case RopeScaling::Kind::kDynamic: scaled = length * rope->scaling.factor; break;
    case RopeScaling::Kind::kYarn: scaled = rope->scaling.original_max_positions * rope->scaling.factor; break;
    default: break;  // llama3 and longrope: the fields say the scaled length
  }
  return static_cast<int32_t>(std::min<double>(scaled, kPositionCounts.max));
}

}  // namespace quire
