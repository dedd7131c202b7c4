// Elementary functions over the Vec of a simd_*.h, included inside its namespace. Pure lane-wise arithmetic, so that
// the same input gives the same bits in every lane. NaN in, NaN out.

/// e^x for x < 88.37, within 1 unit in the last place for x >= -87, 0 below, minus infinity included.
/// Range reduction and polynomial as in the Cephes library's expf, fused.
inline Vec exp_below_88(Vec x) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum, here with the exponent's bias.
  const Vec magic = broadcast(12582912.0f + 127.0f);
  const Vec shifted = fma(x, broadcast(1.44269504f), magic);
  const Vec n = shifted - magic;
  Vec r = fnma(n, broadcast(0.693359375f), x);
  r = fnma(n, broadcast(-2.12194440e-4f), r);
  Vec p = fma(broadcast(1.9875691500e-4f), r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r) + broadcast(1.0f);
  // Whatever came of numbers far below, it is not used.
  return select(less(x, broadcast(-87.0f)), broadcast(0.0f), p * power_of_two(shifted));
}

/// e^x for any x; stays at about 2.4e38 above 88.37.
inline Vec exp(Vec x) {
  return exp_below_88(min(broadcast(88.3762626f), x));
}

/// Odd polynomial below 0.625 (Cephes tanhf), 1 - 2 / (e^2|x| + 1) above.
inline Vec tanh(Vec x) {
  const Vec z = x * x;
  Vec p = fma(broadcast(-5.70498872745e-3f), z, broadcast(2.06390887954e-2f));
  p = fma(p, z, broadcast(-5.37397155531e-2f));
  p = fma(p, z, broadcast(1.33314422036e-1f));
  p = fma(p, z, broadcast(-3.33332819422e-1f));
  const Vec small = fma(p * z, x, x);
  const Vec magnitude = abs(x);
  const Vec one = broadcast(1.0f);
  const Vec large = one - broadcast(2.0f) / (exp(magnitude + magnitude) + one);
  return select(less(magnitude, broadcast(0.625f)), small, copy_sign(large, x));
}

/// Error function within 2 units in the last place: x + x p(x^2) below 0.93, 1 - e^(t q(t)), t = |x|, above. Both
/// polynomials are minimax fits of our own: of erf(x) / x - 1 and of log(erfc(t)) / t.
inline Vec erf(Vec x) {
  const Vec t = abs(x);
  Vec q = fma(broadcast(-1.1522265e-5f), t, broadcast(3.2565245e-4f));
  q = fma(q, t, broadcast(-3.6537631e-3f));
  q = fma(q, t, broadcast(2.3785345e-2f));
  q = fma(q, t, broadcast(-1.0626315e-1f));
  q = fma(q, t, broadcast(-6.3513589e-1f));
  q = fma(q, t, broadcast(-1.1286522e+0f));
  // The fit ends at 4, beyond which the result is 1.
  const Vec tail = exp(min(broadcast(4.0f), t) * q);
  const Vec large = copy_sign(broadcast(1.0f) - select(less(broadcast(4.0f), t), broadcast(0.0f), tail), x);
  const Vec s = x * x;
  Vec p = fma(broadcast(-5.9537415e-4f), s, broadcast(4.9859406e-3f));
  p = fma(p, s, broadcast(-2.6761720e-2f));
  p = fma(p, s, broadcast(1.1281683e-1f));
  p = fma(p, s, broadcast(-3.7612480e-1f));
  p = fma(p, s, broadcast(1.2837915e-1f));
  const Vec small = fma(p, x, x);
  return select(less(broadcast(0.93f), t), large, small);
}
