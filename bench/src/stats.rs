// SPDX-License-Identifier: MIT OR Apache-2.0
//! Medians, quantiles and spreads of samples, for all benchmarks and studies.
//!
//! A series has from two samples (rounds in a guest) to a million (timers). Sorting a copy is quick enough for all of
//! them, and gives values that occurred. A histogram would round them.

/// Returns the values in rising order. NaN comes last. It is the order in which quantiles are read
/// off.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Returns the value at the share `q` (0 to 1) of values in rising order: the smallest one that at least that share of
/// all values does not exceed. NaN if there are no values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Returns the quantiles of values in any order, as [`quantile`] does.
pub fn quantiles<const N: usize>(values: &[f64], shares: [f64; N]) -> [f64; N] {
    let sorted = sorted(values);
    shares.map(|q| quantile(&sorted, q))
}

/// Returns the median, or `None` without values. Of an even number it is the mean of the middle two: a run of two rounds
/// is common, and the lower one would be a biased choice.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Returns the distance from the smallest to the largest value in per cent of the median, or `None` without values. A
/// difference between two contenders that is smaller than this is none.
pub fn spread(values: &[f64]) -> Option<f64> {
    let median = median(values)?;
    let order = sorted(values);
    Some((order[order.len() - 1] - order[0]) / median * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occur_in_whatever_order_they_came() {
        let values = [3.0, 1.0, 2.0, 4.0];
        assert_eq!(quantiles(&values, [0.0, 0.5, 0.99]), [1.0, 2.0, 4.0]);
        assert!(quantile(&[], 0.5).is_nan());
        let times: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(quantiles(&times, [0.5, 0.99]), [500.0, 990.0]);
    }

    #[test]
    fn median_and_spread_of_few_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[100.0]), Some(0.0));
        assert_eq!(spread(&[90.0, 100.0, 110.0]), Some(20.0));
    }
}
