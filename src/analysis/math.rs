//! Sums of exponentials in log space, the logarithm of the gamma function and the incomplete beta
//! function.

/// `exp(value - high)`, or 0 where it would be lost in a sum with 1: most bets of a healthy release
/// are that small, and their exponentials would be most of the cost of a tick.
pub(crate) fn relative(value: f64, high: f64) -> f64 {
    let below = value - high;
    if below < LOST { 0.0 } else { below.exp() }
}

/// `exp` of it, times the maximum number of bets, is less than the smallest difference from 1.
const LOST: f64 = -42.0;

/// `ln(exp(a) + exp(b))` without overflow.
pub(crate) fn log_add_exp(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if high == f64::NEG_INFINITY {
        return high;
    }
    high + (low - high).exp().ln_1p()
}

/// `ln(sum of exp(x))` without overflow; negative infinity for an empty sum.
pub(crate) fn log_sum_exp(values: &[f64]) -> f64 {
    let high = values
        .iter()
        .fold(f64::NEG_INFINITY, |high, value| high.max(*value));
    if high == f64::NEG_INFINITY {
        return high;
    }
    high + values
        .iter()
        .map(|value| relative(*value, high))
        .sum::<f64>()
        .ln()
}

/// `ln(gamma(x))` for positive `x`: the recurrence up to 12, then Stirling's series, accurate to
/// 1e-13 there.
pub(crate) fn ln_gamma(x: f64) -> f64 {
    let mut shifted = x;
    let mut below = 0.0;
    while shifted < 12.0 {
        below += shifted.ln();
        shifted += 1.0;
    }
    let inverse = 1.0 / shifted;
    let square = inverse * inverse;
    let series =
        inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)));
    (shifted - 0.5) * shifted.ln() - shifted + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
        - below
}

/// The regularized incomplete beta function `I_x(a, b)` for positive `a` and `b`: the continued
/// fraction by Lentz's method, on the side where it converges fast.
pub(crate) fn beta_regularized(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TERMS: u32 = 10_000;
    let guarded = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / guarded(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for term in 1..TERMS {
        let m = f64::from(term);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guarded(1.0 + even * d);
        c = guarded(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guarded(1.0 + odd * d);
        c = guarded(1.0 + odd / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-14 {
            break;
        }
    }
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_of_integers_is_the_factorial() {
        let mut factorial = 1.0_f64;
        for n in 1..20_u32 {
            assert!(
                (ln_gamma(f64::from(n)) - factorial.ln()).abs() < 1e-11,
                "{n}"
            );
            factorial *= f64::from(n);
        }
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-12);
    }

    #[test]
    fn log_sums_handle_extreme_values() {
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert!((log_sum_exp(&[1e4, 1e4]) - (1e4 + 2f64.ln())).abs() < 1e-9);
        assert!((log_add_exp(-1e9, 3.0) - 3.0).abs() < 1e-12);
        assert!((log_add_exp(f64::NEG_INFINITY, 3.0) - 3.0).abs() < 1e-12);
    }
}
