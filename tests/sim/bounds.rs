//! Bounds on the number of false alarms: the binomial distribution, and the limits derived from it.

/// The probability of at most `k` of `n` at a probability of `p` each.
fn at_most(k: u64, n: u64, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    let odds = p / (1.0 - p);
    // From the term of k downwards, each from the one above it; the sum ends when terms become
    // negligible.
    let mut term = log_choose(n, k) + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p();
    let mut sum = 0.0;
    for i in (0..=k).rev() {
        sum += term.exp();
        if i > 0 {
            term += (i as f64 / ((n - i + 1) as f64 * odds)).ln();
        }
    }
    sum.min(1.0)
}

fn log_choose(n: u64, k: u64) -> f64 {
    (0..k).map(|i| ((n - i) as f64 / (i + 1) as f64).ln()).sum()
}

/// The upper 99 % bound of the rate behind `k` of `n` (Clopper and Pearson).
pub(crate) fn upper(k: u64, n: u64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if at_most(k, n, middle) > 0.01 {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The largest count of `n` whose bound is within `alpha`, and the smallest count that a rate of
/// `alpha` gives less than once in 1,000.
pub(crate) fn bars(n: u64, alpha: f64) -> (u64, u64) {
    let mut pass = 0;
    while at_most(pass + 1, n, alpha) <= 0.01 {
        pass += 1;
    }
    let mut hard = pass + 1;
    while 1.0 - at_most(hard - 1, n, alpha) >= 1e-3 {
        hard += 1;
    }
    (pass, hard)
}
