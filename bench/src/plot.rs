//! Latency by percentile as an SVG.
//!
//! Owns: axes, colours, sizes.  Not: what is plotted (`report.rs` keeps the curves).
//! The horizontal axis is the number of nines, `-log10(1 - percentile)`, so that the tail has room;
//! the vertical one is logarithmic.  Text is drawn as SVG text: no font is read.

use crate::report::{Curve, Report};
use plotters::prelude::*;
use std::path::Path;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 540;
/// 100 % stands where 99.9999 % would.
const NINES_MAX: f64 = 6.0;
/// Curves in one plot; more cannot be told apart.
const CURVES_MAX: usize = 12;

/// Writes the curves of `report` to `path`. Without any curve nothing is written.
pub fn write_svg(report: &Report, path: &Path) -> anyhow::Result<bool> {
    let curves: Vec<&Curve> =
        report.curves.iter().filter(|curve| curve.count > 0).take(CURVES_MAX).collect();
    if curves.is_empty() {
        return Ok(false);
    }
    let mut text = String::new();
    draw(&mut text, report, &curves).map_err(|error| anyhow::anyhow!("cannot plot: {error}"))?;
    std::fs::write(path, text)?;
    Ok(true)
}

fn draw(
    text: &mut String,
    report: &Report,
    curves: &[&Curve],
) -> Result<(), Box<dyn std::error::Error>> {
    let us = |ns: u64| (ns.max(1)) as f64 / 1e3;
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let low = all().map(|point| us(point.ns)).fold(f64::INFINITY, f64::min);
    let high = all().map(|point| us(point.ns)).fold(0.0, f64::max);
    let root = SVGBackend::with_string(text, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let caption = format!("{}: latency by percentile ({})", report.scenario, report.commit);
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..NINES_MAX, ((low * 0.8)..(high * 1.25)).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("microseconds")
        .x_labels(7)
        .x_label_formatter(&|nines| percentile_label(*nines))
        .y_label_formatter(&|us| crate::report::short(*us))
        .draw()?;
    for (at, curve) in curves.iter().enumerate() {
        let colour = Palette99::pick(at).mix(0.9);
        let points = curve.points.iter().map(|point| (nines(point.percentile), us(point.ns)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

fn nines(percentile: f64) -> f64 {
    let rest = (1.0 - percentile / 100.0).max(1e-12);
    (-rest.log10()).min(NINES_MAX)
}

fn percentile_label(nines: f64) -> String {
    if nines >= NINES_MAX {
        return "max".into();
    }
    let percentile = 100.0 * (1.0 - 10f64.powf(-nines));
    let text = format!("{percentile:.4}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Latency;

    #[test]
    fn a_report_with_curves_becomes_an_svg_and_one_without_does_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("plot.svg");
        let mut report = Report::new("messages");
        assert!(!write_svg(&report, &path).expect("nothing to do"));
        let mut latency = Latency::new();
        (1..10_000).for_each(|ns| latency.record_ns(ns * 10));
        report.latency("one", &latency);
        report.latency("two", &latency);
        assert!(write_svg(&report, &path).expect("plots"));
        let text = std::fs::read_to_string(&path).expect("written");
        assert!(text.starts_with("<svg") && text.contains("two"));
    }

    #[test]
    fn percentiles_are_spread_by_their_nines() {
        assert!((nines(99.0) - 2.0).abs() < 1e-9);
        assert_eq!(nines(100.0), NINES_MAX);
        assert_eq!(percentile_label(1.0), "90%");
        assert_eq!(percentile_label(3.0), "99.9%");
    }
}
