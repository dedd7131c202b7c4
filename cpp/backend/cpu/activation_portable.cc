#include <cmath>
#include <numbers>

#include "backend/cpu/activation_rows.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/matrix_pieces.h"

namespace quire::cpu::portable {
namespace {

float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::kGelu: return 0.5f * x * (1.0f + std::erf(x * (std::numbers::sqrt2_v<float> / 2.0f)));
    case Activation::kGeluTanh: {
      constexpr float kSqrtTwoOverPi = 0.797884561f;
      return 0.5f * x * (1.0f + std::tanh(kSqrtTwoOverPi * (x + 0.044715f * x * x * x)));
    }
    case Activation::kGeluQuick: return x / (1.0f + std::exp(-1.702f * x));
    case Activation::kRelu: return x < 0.0f ? 0.0f : x;
    case Activation::kRelu2: return x < 0.0f ? 0.0f : x * x;
    default: return x / (1.0f + std::exp(-x));
  }
}

void activate_row(const ActivationRule& rule, const float* x, const float* other, float* out, int64_t size) {
  const ActivationForm form = activation_form(rule);
  const float limit = activation_limit(rule);
  for (int64_t i = 0; i < size; ++i) {
    if (form == ActivationForm::kLimited) {
      // Written so that NaN stays NaN.
      const float gate = x[i] > limit ? limit : x[i];
      const float low = other[i] < -limit ? -limit : other[i];
      out[i] = activate(rule.kind, gate) * ((low > limit ? limit : low) + rule.offset);
    } else {
      const float value = activate(rule.kind, x[i]);
      out[i] = form == ActivationForm::kGated ? value * other[i] : value;
    }
  }
}

}  // namespace

void activation(const ActivationArgs& args, Stream& stream) {
  const int64_t width = args.out.shape[1];
  for_each_piece(stream, args.out.shape[0], width, [&](int64_t row, int64_t begin, int64_t end) {
    const float* const x = args.x.as<const float>() + row * args.x.strides[0] + begin;
    float* const out = args.out.as<float>() + row * args.out.strides[0] + begin;
    activate_row(args.rule, x, x + width, out, end - begin);
  });
}

ActivateRowFn activate_row_of(const ActivationRule&) {
  return activate_row;
}

}  // namespace quire::cpu::portable
