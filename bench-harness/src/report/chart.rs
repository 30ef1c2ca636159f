//! Charts as inline SVG.

use super::page::escape;
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 46.0;

/// Colours that stay apart for most eyes (Okabe and Ito 2008), for one run each.
const COLOURS: &[&str] =
    &["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#000000"];

/// How values are laid out on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// Powers of ten at equal distances.
    Log,
    /// Quantiles: each further nine at equal distances.
    Nines,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(1e-9).log10(),
            Self::Nines => -(1.0 - value).max(1e-9).log10(),
        }
    }
}

/// An axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis<'a> {
    pub(super) label: &'a str,
    pub(super) scale: Scale,
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// The colour of the series with this number.
pub(super) fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// Lines over common axes; empty if there is nothing to draw.
pub(super) fn lines(x: Axis<'_>, y: Axis<'_>, series: &[Series]) -> String {
    let placed: Vec<Vec<(f64, f64)>> = series
        .iter()
        .map(|line| {
            let points = line.points.iter().filter(|(_, value)| y.scale != Scale::Log || *value > 0.0);
            points.map(|(at, value)| (x.scale.place(*at), y.scale.place(*value))).collect()
        })
        .collect();
    let Some(frame) = Frame::around(x.scale, y.scale, placed.iter().flatten()) else { return String::new() };
    let mut svg = frame.begin(x, y);
    for (index, (points, line)) in placed.iter().zip(series).enumerate() {
        let path: Vec<String> = points
            .iter()
            .map(|(at, value)| format!("{:.1},{:.1}", frame.across(*at), frame.down(*value)))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"><title>{}</title></polyline>",
            colour(index),
            path.join(" "),
            escape(&line.name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// The part of the plane that is shown, in places of the scales.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    x_ticks: Vec<(f64, String)>,
    y_ticks: Vec<(f64, String)>,
}

impl Frame {
    fn around<'p>(x: Scale, y: Scale, points: impl Iterator<Item = &'p (f64, f64)> + Clone) -> Option<Self> {
        let bounds = |values: &mut dyn Iterator<Item = f64>| {
            values.fold(None, |found: Option<(f64, f64)>, value| {
                Some(found.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
            })
        };
        let (x_low, x_high) = bounds(&mut points.clone().map(|point| point.0))?;
        let (y_low, y_high) = bounds(&mut points.map(|point| point.1))?;
        let x_ticks = ticks(x, x_low.min(0.0), x_high);
        let y_ticks = ticks(y, if y == Scale::Log { y_low } else { 0.0 }, y_high);
        Some(Self { x: span(&x_ticks, x_high), y: span(&y_ticks, y_high), x_ticks, y_ticks })
    }

    fn across(&self, place: f64) -> f64 {
        LEFT + (place - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn down(&self, place: f64) -> f64 {
        HEIGHT - BOTTOM - (place - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }

    /// The opening tag, the grid and its labels.
    fn begin(&self, x: Axis<'_>, y: Axis<'_>) -> String {
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
        let (low, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (place, label) in &self.x_ticks {
            let at = self.across(*place);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{low}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                low + 16.0
            );
        }
        for (place, label) in &self.y_ticks {
            let at = self.down(*place);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        let (middle, centre) = (f64::midpoint(LEFT, right), f64::midpoint(TOP, low));
        let _ = writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text x=\"14\" y=\"{centre}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {centre})\">{}</text>",
            HEIGHT - 8.0,
            escape(x.label),
            escape(y.label)
        );
        svg
    }
}

/// From the first tick to the last, or to the largest value beyond it.
fn span(ticks: &[(f64, String)], high: f64) -> (f64, f64) {
    let first = ticks.first().map_or(0.0, |tick| tick.0);
    let last = ticks.last().map_or(1.0, |tick| tick.0).max(high);
    (first, if last > first { last } else { first + 1.0 })
}

/// Where an axis is labelled, in places of its scale.
fn ticks(scale: Scale, low: f64, high: f64) -> Vec<(f64, String)> {
    let whole = |first: f64, last: f64, label: &dyn Fn(i32) -> String| {
        (first as i32..=last as i32).map(|power| (f64::from(power), label(power))).collect()
    };
    match scale {
        Scale::Log => whole(low.floor(), high.ceil(), &|power| number(10_f64.powi(power))),
        Scale::Nines => whole(0.0, high.ceil().min(8.0), &|nines| match nines {
            0 => "0 %".to_owned(),
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            more => format!("99.{} %", "9".repeat(usize::try_from(more - 2).unwrap_or(0))),
        }),
        Scale::Linear => {
            let step = nice_step((high - low).max(f64::MIN_POSITIVE) / 6.0);
            let first = (low / step).floor();
            let count = ((high / step).ceil() - first).max(1.0) as i32;
            (0..=count).map(|index| (first + f64::from(index)) * step).map(|at| (at, number(at))).collect()
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least as large.
fn nice_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least).unwrap_or(10.0);
    factor * power
}

/// A number without needless digits.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 1.0 => 2,
        size => (2.0 - size.log10().floor()) as usize,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// One bar for each value, with its name and its figure.
pub(super) fn bars(label: &str, values: &[(String, f64)]) -> String {
    let highest = values.iter().fold(0.0_f64, |highest, (_, value)| highest.max(*value));
    if highest <= 0.0 {
        return String::new();
    }
    let (row, name_width) = (26.0, 260.0);
    let height = row * values.len() as f64 + 24.0;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    let _ = writeln!(svg, "<text x=\"{name_width}\" y=\"14\">{}</text>", escape(label));
    for (index, (name, value)) in values.iter().enumerate() {
        let top = 22.0 + row * index as f64;
        let length = value / highest * (WIDTH - name_width - 90.0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{name_width}\" y=\"{top}\" width=\"{length:.1}\" height=\"18\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            name_width - 8.0,
            top + 14.0,
            escape(name),
            colour(index),
            name_width + length + 6.0,
            top + 14.0,
            number(*value)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_put_values_in_their_places() {
        let near = |left: f64, right: f64| (left - right).abs() < 1e-6;
        assert!(near(Scale::Log.place(1000.0), 3.0));
        assert!(near(Scale::Nines.place(0.999), 3.0) && near(Scale::Nines.place(0.0), 0.0));
        assert!(Scale::Nines.place(1.0).is_finite());
        let labels = |ticks: Vec<(f64, String)>| ticks.into_iter().map(|tick| tick.1).collect::<Vec<_>>();
        assert_eq!(labels(ticks(Scale::Nines, 0.0, 3.5)), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(labels(ticks(Scale::Log, -1.3, 1.2)), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(labels(ticks(Scale::Linear, 0.0, 11.0)), ["0", "2", "4", "6", "8", "10", "12"]);
        assert_eq!(
            (number(0.0), number(1234.5), number(0.0123)),
            ("0".into(), "1234".into(), "0.0123".into())
        );
    }

    #[test]
    fn lines_stay_within_the_frame() {
        let series = [Series {
            name: "<b>".to_owned(),
            points: vec![(0.0, 0.5), (0.9, 5.0), (0.9999, 70.0), (1.0, 80.0)],
        }];
        let axis = |label, scale| Axis { label, scale };
        let svg = lines(axis("percentile", Scale::Nines), axis("ms", Scale::Log), &series);
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let mut across = 0.0;
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH - RIGHT + 0.1).contains(&x) && (TOP..=HEIGHT).contains(&y), "{point}");
            assert!(x >= across);
            across = x;
        }
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
        assert!(lines(axis("", Scale::Linear), axis("", Scale::Linear), &[]).is_empty());
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let svg = bars("CPU-s/GB", &[("a".to_owned(), 2.0), ("b".to_owned(), 1.0)]);
        let lengths: Vec<f64> = svg
            .match_indices("width=\"")
            .map(|(at, found)| svg[at + found.len()..].split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(lengths.len(), 2);
        assert!((lengths[0] - 2.0 * lengths[1]).abs() < 0.2, "{lengths:?}");
        assert!(bars("x", &[("a".to_owned(), 0.0)]).is_empty());
    }
}
