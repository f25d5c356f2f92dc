//! The golden vectors: every number to 1e-9.

use serde::Deserialize;

use super::super::advance::{Advance, KAPPA};
use super::super::error::{BETS, ErrorTest, Margin, Pair};
use super::super::latency::LatencyGains;
use super::super::wealth::Wealth;

const VECTORS: &str = include_str!("../../../tests/golden/statistics.json");

#[derive(Deserialize)]
struct Golden {
    grid_ell: Vec<f64>,
    prior: Vec<f64>,
    kappa: Vec<f64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Case {
    AbortError {
        w: f64,
        r0: f64,
        d0: f64,
        deltas: Vec<(u64, u64, u64, u64)>,
        share_before: Vec<usize>,
        log_e: Vec<f64>,
    },
    AdvanceError {
        w: f64,
        r1: f64,
        d1: f64,
        deltas: Vec<(u64, u64, u64, u64)>,
        log_e: Vec<f64>,
    },
    AbortBins {
        w: f64,
        r: Vec<[f64; 5]>,
        log_prior: [f64; 4],
        deltas: Vec<([f64; 5], [f64; 5])>,
        log_e: Vec<f64>,
    },
}

fn close(actual: f64, golden: f64) {
    assert!((actual - golden).abs() <= 1e-9, "{actual} is not {golden}");
}

#[test]
fn golden_vectors_match() {
    let golden: Golden = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(golden.cases.len(), 11);
    for case in golden.cases {
        check(case);
    }
}

#[test]
fn bet_grids_match_the_golden_file() {
    let golden: Golden = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(golden.kappa, KAPPA);
    for (j, ell) in golden.grid_ell.iter().enumerate() {
        close(2_f64.powi(j as i32 - 4), *ell);
    }
    assert_eq!(golden.grid_ell.len(), BETS);
    for (log, prior) in Wealth::<BETS>::new().logs().iter().zip(&golden.prior) {
        close(*log, prior.ln());
    }
}

fn check(case: Case) {
    match case {
        Case::AbortError {
            w,
            r0,
            d0,
            deltas,
            share_before,
            log_e,
        } => {
            let mut test = ErrorTest::new(Margin {
                ratio: r0,
                worse_by: d0,
            });
            let mut k = 0;
            for (i, ((n_c, f_c, _, f_s), golden)) in deltas.iter().zip(log_e).enumerate() {
                if share_before.contains(&i) {
                    k += 1;
                    test.share(k);
                }
                test.score(w, Pair::of(*n_c, *f_c), *f_s);
                close(test.log_e(), golden);
            }
        }
        Case::AdvanceError {
            w,
            r1,
            d1,
            deltas,
            log_e,
        } => {
            let mut test = Advance::new(Margin {
                ratio: r1,
                worse_by: d1,
            });
            for ((n_c, f_c, _, f_s), golden) in deltas.iter().zip(log_e) {
                test.score(w, Pair::of(*n_c, *f_c), *f_s);
                close(test.log_e(), golden);
            }
        }
        Case::AbortBins {
            w,
            r,
            log_prior,
            deltas,
            log_e,
        } => {
            // The vectors have five bins: the fifth is repeated for the three empty ones.
            let wide = |row: &[f64; 5]| {
                [
                    row[0], row[1], row[2], row[3], row[4], row[4], row[4], row[4],
                ]
            };
            let ratios = [wide(&r[0]), wide(&r[1]), wide(&r[2])];
            let table = LatencyGains::new(w, &ratios);
            let mut wealth = Wealth::<3>::new();
            for (log, golden) in wealth.logs().iter().zip(log_prior) {
                close(*log, golden);
            }
            for ((canary, baseline), golden) in deltas.iter().zip(log_e) {
                let bins = |row: &[f64; 5]| [row[0], row[1], row[2], row[3], row[4], 0.0, 0.0, 0.0];
                table.score(wealth.bets_mut(), &bins(canary), &bins(baseline));
                close(wealth.log_e(), golden);
            }
        }
    }
}
